"""Which JSON schemas generated text can be held to: all others are refused before a token is made.

llguidance ignores some keywords silently, rounds large integers, and notices some limits only while it generates.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llm_jax.errors import RequestError

MAX_INTEGER = 2**53  # integers are floats there
MAX_OPTIONAL = 500  # its parser holds about four entries for each optional property, and at most 2000

# Ignored, or not known, in one draft or another.
_UNSUPPORTED = frozenset(
    [
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
        "x-guidance",
        "$dynamicRef",
        "$recursiveRef",
    ]
)
_VALUES = frozenset(["const", "default", "enum", "examples", "example"])  # hold values, no schemas
_SCHEMAS_BY_NAME = frozenset(["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"])
_NUMBERS = frozenset(["const", "enum", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"])
_NOT_YEAR_0 = "^([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-"
_BINDING_TEXTS = ("const", "enum", "properties", "required")


def check_schema(schema: Any, special_tokens: frozenset[str] = frozenset()) -> None:
    """Decides whether generated JSON can be held to a schema.

    Args:
        special_tokens: texts that the tokenizer turns into one token each, so that they cannot be generated as text.

    Raises:
        RequestError: it is no schema, or it has a feature that could not be held to; the message names it.
    """
    if not isinstance(schema, dict):
        raise RequestError(f"The JSON schema is {json.dumps(schema)[:80]}; it must be an object.", "json_schema")
    for path, node in _walk(schema, "$"):
        unsupported = sorted(_UNSUPPORTED & node.keys())
        if unsupported:
            raise RequestError(
                f"The JSON schema has {unsupported[0]!r} at {path}, which generated text cannot be held to; "
                "leave it out and check the result.",
                "json_schema",
            )
        for key in _NUMBERS & node.keys():
            for number in _numbers(node[key]):
                if abs(number) > MAX_INTEGER:
                    raise RequestError(
                        f"The JSON schema has {key} {number} at {path}; numbers beyond 2^53 would be rounded. Use a "
                        "smaller one, or a string.",
                        "json_schema",
                    )
        properties, required = node.get("properties"), node.get("required")
        if isinstance(properties, Mapping):
            optional = len(properties.keys() - set(required if isinstance(required, list) else ()))
            if optional > MAX_OPTIONAL:
                raise RequestError(
                    f"The JSON schema has {optional} optional properties at {path}; at most {MAX_OPTIONAL} of one "
                    "object can be. Name more of them in 'required'.",
                    "json_schema",
                )
            for key in ("minProperties", "maxProperties"):
                if optional and node.get(key):
                    raise RequestError(
                        f"The JSON schema has {key!r} beside optional properties at {path}, which cannot be guaranteed "
                        "while generating; name all properties in 'required', or leave it out.",
                        "json_schema",
                    )
        for key in _BINDING_TEXTS:
            check_text(node.get(key), special_tokens, f"{key} of the JSON schema at {path}", "json_schema")


def narrow(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what it allows and nobody wants.

    `additionalProperties: false` is added where an object names its properties and is silent on others: JSON Schema
    allows any others then, and a model without a stop in sight makes them up. That is left as it is where schemas are
    combined, since each would then forbid what the other names. Dates are not in the year 0, which most libraries
    cannot read.
    """
    combined = ("allOf", "anyOf", "oneOf", "$ref")
    closed: dict[str, Any] = json.loads(json.dumps(schema))
    nodes = [node for _, node in _walk(closed, "$")]
    for node in nodes:
        if node.get("format") in ("date", "date-time"):
            node.setdefault("pattern", _NOT_YEAR_0)
    if any("allOf" in node or ("properties" in node and any(key in node for key in combined)) for node in nodes):
        return closed
    for node in nodes:
        properties, required = node.get("properties"), node.get("required", [])
        is_open = "additionalProperties" not in node and "patternProperties" not in node
        if is_open and isinstance(properties, dict) and all(name in properties for name in required):
            node["additionalProperties"] = False
    return closed


def check_text(value: Any, special_tokens: frozenset[str], where: str, param: str) -> None:
    """Refuses values whose texts hold a special token: the tokenizer has no other ids for it, and it is no text.

    Raises:
        RequestError: one does.
    """
    for text in _texts(value):
        token = next((token for token in special_tokens if token in text), None)
        if token is not None:
            raise RequestError(
                f"{where} holds {token!r}, a special token of this model, which cannot be generated as text; leave "
                "it out.",
                param,
            )


def _walk(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and all schemas in it, each with its place."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _walk(item, f"{path}[{index}]")
    elif isinstance(schema, dict):
        yield path, schema
        for key, value in schema.items():
            if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
                for name, inner in value.items():
                    yield from _walk(inner, f"{path}.{key}.{name}")
            elif key not in _VALUES and not isinstance(value, str):
                yield from _walk(value, f"{path}.{key}")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
