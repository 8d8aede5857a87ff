"""/openapi.json: the application's routes, with the schemas that validate what clients send."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from pydantic.json_schema import models_json_schema

from llm_jax import __version__
from server.routes.operation import Operation
from server.schemas.base import LIMIT

Json = dict[str, Any]
SCHEMAS = "#/components/schemas/"
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field of the request that is to blame."},
                "code": {"type": ["string", "null"], "description": "A short name of the case, for programs."},
            },
        }
    },
}
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

HELLO = [{"role": "user", "content": "Hello!"}]
EXAMPLES: Json = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 20},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 20},
    "/v1/responses": {"input": "Hello!", "max_output_tokens": 20},
    "/v1/messages": {"messages": HELLO, "max_tokens": 20},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/embeddings": {"input": ["A dog", "A cat"]},
    "/v1/load_lora_adapter": {"lora_name": "poet", "lora_path": "/adapters/poet"},
    "/v1/unload_lora_adapter": {"lora_name": "poet"},
    "/tokenize": {"prompt": "Once upon a time"},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/generate": {"prompt": "Once upon a time", "max_new_tokens": 20},
    "/batch_generate": {"prompts": ["Once upon a time", "The dog"], "max_new_tokens": 20},
}
# Which answer has a parameter of which other operation.
LINKS: Json = {
    "/v1/models": {
        "model": {"operationId": "get_retrieve_model", "parameters": {"model": "$response.body#/data/0/id"}}
    },
    "/tokenize": {"text": {"operationId": "post_detokenize", "requestBody": {"tokens": "$response.body#/tokens"}}},
}


def openapi_document(
    operations: Sequence[Operation],
    limits: Mapping[str, int] = MappingProxyType({}),
    *,
    open_paths: frozenset[str] = frozenset(),
    admin_paths: frozenset[str] = frozenset(),
    needs_key: bool = False,
) -> Json:
    """OpenAPI 3.1.

    Args:
        limits: of the served model, see `bounded_by`; unknown while it is loading.
        open_paths: need no key; the others do where `needs_key`.
        admin_paths: need the administrator's key in any case.
    """
    bodies = dict.fromkeys(body for operation in operations for body in operation.bodies)
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=f"{SCHEMAS}{{model}}", union_format="any_of"
    )
    unbounded = {body.__name__ for body in bodies if not body.is_bounded}
    named = {
        name: _with_limits(_with_nulls(schema), {} if name in unbounded else limits)
        for name, schema in schemas.get("$defs", {}).items()
    }
    components: Json = {"schemas": {**named, "Error": ERROR}, "securitySchemes": SECURITY}
    paths: Json = {}
    for operation in operations:
        description = _operation(operation)
        if operation.path in admin_paths or (needs_key and operation.path not in open_paths):
            description["security"] = [{name: []} for name in SECURITY]
            description["responses"]["401"] = _error(401)
        methods = ("post",) if operation.bodies else ("get", "head")
        paths[operation.path_format] = {
            method: {"operationId": f"{method}_{operation.name}", **description} for method in methods
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm", "version": __version__, "description": "A decoder language model over HTTP."},
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation) -> Json:
    summary, _, rest = operation.text.partition(". ")
    description: Json = {
        "summary": summary.rstrip("."),
        "responses": {
            "200": {"description": "OK", "content": {media: {} for media in _media_types(operation)}},
            **{str(status): _error(status) for status in _error_statuses(operation)},
        },
    }
    if rest:
        description["description"] = rest
    if operation.path in LINKS:
        description["responses"]["200"]["links"] = LINKS[operation.path]
    if operation.param_convertors:
        description["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in operation.param_convertors
        ]
    if operation.bodies:
        references = [{"$ref": SCHEMAS + body.__name__} for body in operation.bodies]
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        content = {"schema": schema, "example": EXAMPLES[operation.path]}
        description["requestBody"] = {"required": True, "content": {"application/json": content}}
    return description


def _media_types(operation: Operation) -> Iterable[str]:
    yield operation.answer
    if any("stream" in body.model_fields for body in operation.bodies) and operation.generates:
        yield "text/event-stream"


def _error_statuses(operation: Operation) -> Iterable[int]:
    if operation.bodies:
        yield operation.invalid_status
        yield from (404, 413, 415)
    if operation.param_convertors:
        yield 404
    if operation.generates:
        yield from (429, 504)
    yield from (500, 503)


def _error(status: int) -> Json:
    schema = {"$ref": SCHEMAS + "Error"}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}


def _with_nulls(schema: Any) -> Any:
    """Null is the default of every field that has one, also of those that nobody knows (see `Body`)."""
    if isinstance(schema, list):
        return [_with_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _with_nulls(value) for key, value in schema.items()}
    if schema.get("type") == "object":
        required = schema.get("required", ())
        properties = changed.get("properties", {})
        changed["properties"] = {
            name: value if name in required else _or_null(value) for name, value in properties.items()
        }
        if changed.get("additionalProperties") is False:
            changed["additionalProperties"] = {"type": "null"}
    return changed


def _with_limits(schema: Any, limits: Mapping[str, int]) -> Any:
    """With maxima in the place of the marks of `bounded_by`."""
    if isinstance(schema, list):
        return [_with_limits(part, limits) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _with_limits(value, limits) for key, value in schema.items() if key != LIMIT}
    if (limit := limits.get(schema.get(LIMIT, ""))) is not None:
        if "pattern" in schema:
            changed["pattern"] = f"^({at_most(limit)})$"
        else:
            changed.pop("exclusiveMaximum", None)
            changed["maximum"] = limit
    return changed


def at_most(number: int) -> str:
    """A regular expression of the integers from 0 on, without leading zeros: each shorter one, and of those that are
    as long as `number`, each that is less at some digit and equal before it."""
    digits = str(number)
    shorter = ["0", *(f"[1-9][0-9]{{{n}}}" for n in range(len(digits) - 1))] if number else []
    less = [
        f"{digits[:place]}[{least}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if (least := 0 if place else 1) < int(digit)
    ]
    return "|".join([*shorter, *less, digits])


def _or_null(schema: Json) -> Json:
    if schema.get("type") == "null" or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}
