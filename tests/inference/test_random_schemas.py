"""Random JSON schemas: texts of random allowed tokens are JSON that they accept, whatever the model.

The tokens are drawn through the grammar alone, which is where a model's would go; a text is led to an end after a
while, since nothing else would bound a string or a list. `LLM_SCHEMAS` sets how many schemas there are.
"""

import json
import os
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from llm_jax.errors import InferenceError, RequestError
from llm_jax.inference import Grammars
from llm_jax.inference.constraints import GrammarConstraint
from llm_jax.tokenizers import BPETokenizer, HFTokenizer
from llm_jax.tokenizers.tool_calls import HERMES, LLAMA, MISTRAL, PLAIN

SCHEMAS = int(os.environ.get("LLM_SCHEMAS", 2000))
BATCHES = 20
LARGE = 300
LONG = 120  # tokens after which the end is sought
LIMIT = 1500
CHARACTERS = 'abcé"\\ \n{}[],:0中😀'
FORMATS = ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "uri", "duration"]
# Without "time", which the library takes for a time without a zone.
CHECKED_FORMATS = jsonschema.FormatChecker(
    [name for name in FORMATS if name != "time" and name in jsonschema.FormatChecker.checkers]
)
PATTERNS = ["^[a-c]{1,3}$", "^a+b*$", "^(x|yy)\\d{2}$", "[0-9]", "^é?$"]


@pytest.fixture(scope="module")
def tokenizer() -> HFTokenizer:
    """With tokens that cross JSON's own, as real ones do."""
    texts = ['{"name": "Ada", "age": 36, "tags": ["x", "yy"]}, "ok": true, "é": null}]', "a dog", '":{"', '"],"']
    return BPETokenizer.train(texts * 4, vocab_size=330)


@pytest.fixture(scope="module")
def grammars(tokenizer: HFTokenizer) -> Grammars:
    return Grammars(tokenizer, vocab_size=tokenizer.vocab_size, end_ids=[0])


def random_schema(rng: random.Random, depth: int = 3) -> Any:
    """A schema of the supported subset."""
    leaves = [string, integer, number, enumeration, constant, literal]
    nested = [array, tuple_, object_, object_, any_of, several_types, all_of]
    return rng.choice(leaves + nested if depth else leaves)(rng, depth)


def text(rng: random.Random, length: int = 4) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(0, length)))


def string(rng: random.Random, depth: int) -> Any:
    low = rng.randint(0, 3)
    return rng.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 5)},
            {"type": "string", "pattern": rng.choice(PATTERNS)},
            {"type": "string", "format": rng.choice(FORMATS)},
        ]
    )


def integer(rng: random.Random, depth: int) -> Any:
    low = rng.randint(-1000, 1000)
    bounds = {rng.choice(["minimum", "exclusiveMinimum"]): low, rng.choice(["maximum", "exclusiveMaximum"]): low + 9}
    return {"type": "integer", **rng.choice([{}, bounds, {"minimum": low}, {"multipleOf": rng.randint(1, 12)}])}


def number(rng: random.Random, depth: int) -> Any:
    low = rng.randint(-50, 50) / 4
    return {"type": "number", **rng.choice([{}, {"minimum": low, "maximum": low + 2.5}, {"exclusiveMinimum": low}])}


def literal(rng: random.Random, depth: int) -> Any:
    return {"type": rng.choice(["null", "boolean"])}


def value(rng: random.Random) -> Any:
    return rng.choice([None, True, rng.randint(-99, 99), 1.5, text(rng), [1, text(rng)], {text(rng): text(rng)}])


def enumeration(rng: random.Random, depth: int) -> Any:
    return {"enum": [value(rng) for _ in range(rng.randint(1, 4))]}


def constant(rng: random.Random, depth: int) -> Any:
    return {"const": value(rng)}


def array(rng: random.Random, depth: int) -> Any:
    low = rng.randint(0, 2)
    bounds = rng.choice([{}, {"minItems": low, "maxItems": low + rng.randint(0, 2)}])
    return {"type": "array", "items": random_schema(rng, depth - 1), **bounds}


def tuple_(rng: random.Random, depth: int) -> Any:
    first = [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 2))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def object_(rng: random.Random, depth: int) -> Any:
    names = {text(rng) or "a" for _ in range(rng.randint(0, 4))}
    properties = {name: random_schema(rng, depth - 1) for name in sorted(names)}
    required = [name for name in properties if rng.random() < 0.6]
    others = rng.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}])
    return {"type": "object", "properties": properties, "required": required, **others}


def any_of(rng: random.Random, depth: int) -> Any:
    return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def all_of(rng: random.Random, depth: int) -> Any:
    return {"allOf": [{"type": "integer", "minimum": rng.randint(-9, 0)}, {"maximum": rng.randint(0, 99)}]}


def several_types(rng: random.Random, depth: int) -> Any:
    return {"type": rng.sample(["string", "integer", "null", "boolean"], 2)}


def generate(constraint: GrammarConstraint, rng: random.Random, closing: list[int]) -> list[int] | None:
    """Tokens drawn from what is allowed, until the end; None where it does not come within the limit."""
    generated: list[int] = []
    while len(generated) < LIMIT:
        mask = constraint.mask(generated)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if allowed[0] == 0 and (len(allowed) == 1 or len(generated) > LONG or rng.random() < 0.3):
            return generated
        if allowed[0] == 0:
            allowed = allowed[1:]
        ending = [token for token in closing if token in allowed] if len(generated) > LONG else []
        generated.append(ending[0] if ending else int(allowed[rng.randrange(len(allowed))]))
    return None


def closing_tokens(tokenizer: HFTokenizer) -> list[int]:
    return [tokenizer.encode(mark)[0] for mark in '"}]0']


def large_schema(rng: random.Random) -> Any:
    """As they are found in repositories: annotated, nested, with definitions that refer to each other."""
    names = [f"part_{n}" for n in range(rng.randint(1, 4))]

    def described(schema: Any) -> Any:
        notes = {"title": text(rng, 9), "description": text(rng, 30), "default": value(rng), "examples": [value(rng)]}
        return {**schema, **{key: notes[key] for key in rng.sample(sorted(notes), 2)}}

    def member(depth: int) -> Any:
        reference = {"$ref": f"#/$defs/{rng.choice(names)}"}
        plain = described(random_schema(rng, depth))
        return rng.choice([reference, {"type": "array", "items": reference, "maxItems": 3}] + [plain] * 3)

    def members(count: int, depth: int) -> Any:
        properties = {f"{text(rng, 3)}{n}": member(depth) for n in range(count)}
        required = [name for name, part in properties.items() if "$ref" not in str(part) and rng.random() < 0.5]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    definitions = {name: members(rng.randint(1, 5), 1) for name in names}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://example.com/{rng.random()}.json",
        **described(members(rng.randint(3, 25), 3)),
        "$defs": definitions,
    }


@pytest.mark.parametrize("batch", range(BATCHES))
def test_texts_are_what_their_schemas_accept(grammars: Grammars, tokenizer: HFTokenizer, batch: int) -> None:
    cases = [(random.Random(number), random_schema) for number in range(batch, SCHEMAS, BATCHES)]
    cases += [(random.Random(number), large_schema) for number in range(batch, LARGE, BATCHES)]
    checked = 0
    for rng, make in cases:
        schema = make(rng)
        try:
            constraint = grammars.json_schema(schema)
            generated = generate(constraint, rng, closing_tokens(tokenizer))
        except RequestError:  # refused by name
            continue
        if generated is not None:
            validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKED_FORMATS)
            validator.validate(json.loads(tokenizer.decode(generated)))
            checked += 1
    assert checked > 0.85 * len(cases)


@pytest.mark.parametrize("syntax", [HERMES, LLAMA, MISTRAL, PLAIN])
def test_arguments_of_tools_are_what_their_schemas_accept(
    grammars: Grammars, tokenizer: HFTokenizer, syntax: Any
) -> None:
    checked = 0
    for rng in map(random.Random, range(SCHEMAS // 20)):
        schema = {"type": "object", "properties": {"x": random_schema(rng, 2)}, "required": ["x"]}
        try:
            constraint = grammars.tool_calls(syntax, [("f", schema)], is_required=True, is_parallel=False)
            generated = generate(constraint, rng, closing_tokens(tokenizer))
        except (RequestError, InferenceError):
            continue
        if generated is not None:
            written = tokenizer.decode(generated).strip()
            start = len(syntax.trigger + syntax.opening + syntax.head + "f" + syntax.middle)
            end = len(written) - len(syntax.tail + syntax.closing)
            jsonschema.validate(json.loads(written[start:end]), schema)
            checked += 1
    assert checked > 0.8 * SCHEMAS / 20
