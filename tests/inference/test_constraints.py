"""Text under a grammar is what the grammar says, whatever the model; what cannot be guaranteed is refused by name."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, InferenceError, LLMError, RequestError
from llm_jax.inference import Engine, Grammars, Request, SamplingParams, TokenEvent
from llm_jax.inference.constraints import GrammarConstraint
from llm_jax.inference.engine.masks import compute_masks
from llm_jax.model import Model, init_params
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer, HFTokenizer

END = "<|im_end|>"
TEXTS = ['{"name": "Ada", "age": 36, "tags": ["x", "yy"], "ok": true, "none": null}', "the little dog and the fox", "é"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["x", "y", 1.5, None]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}


@pytest.fixture(scope="module")
def tokenizer() -> HFTokenizer:
    """Byte-level BPE with a second end token, as chat models have one, that no file names."""
    trained = BPETokenizer.train(TEXTS * 3, vocab_size=300)
    trained._backend.add_special_tokens([AddedToken(END, special=True)])
    return HFTokenizer(trained._backend, {})


@pytest.fixture(scope="module")
def grammars(tokenizer: HFTokenizer) -> Grammars:
    """For a model whose vocabulary is padded."""
    return Grammars(tokenizer, vocab_size=330, end_ids=end_ids(tokenizer))


def end_ids(tokenizer: HFTokenizer) -> list[int]:
    [end] = tokenizer.encode(END)
    return [0, end]


def allowed(constraint: GrammarConstraint, generated: list[int]) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(constraint.mask(generated).view(np.uint8), bitorder="little"))


def random_text(
    constraint: GrammarConstraint, tokenizer: HFTokenizer, seed: int, ends: list[int], limit: int = 400
) -> str | None:
    """Tokens drawn alike from what is allowed, until the end; None where it does not come in time.

    The end token is taken where it is allowed, for grammars without a bound.
    """
    rng = np.random.default_rng(seed)
    generated: list[int] = []
    while len(generated) < limit:
        tokens = allowed(constraint, generated)
        stop = [token for token in tokens if token in ends]
        token = stop[0] if stop else int(rng.choice(tokens))
        if token in ends:
            return tokenizer.decode(generated)
        generated.append(token)
    return None


def test_the_mask_has_the_models_words_and_no_token_beyond_the_tokenizers(grammars: Grammars) -> None:
    mask = grammars.json_object().mask([])
    assert (mask.dtype, mask.shape) == (np.uint32, (-(-330 // 32),))
    assert allowed(grammars.lark("start: /(.|\n)*/"), []).max() < 303


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_under_a_schema_are_json_that_it_accepts(
    grammars: Grammars, tokenizer: HFTokenizer, seed: int
) -> None:
    text = random_text(grammars.json_schema(SCHEMA), tokenizer, seed, end_ids(tokenizer))
    assert text is not None
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ('{"a":1,"b":2}', True),
        ('{"b":2,"a":1', False),
        ('{"a":1,"\\u0061":2', False),
        ('{"\\u0061":1', False),
        ('{ "a":1', False),
        ('{"a":1,"a":2', False),
    ],
)
def test_a_key_comes_once_and_in_one_spelling(
    grammars: Grammars, tokenizer: HFTokenizer, text: str, is_allowed: bool
) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": True}
    assert follows(grammars.json_schema(schema), tokenizer, text) is is_allowed


def test_no_properties_are_made_up_and_combined_schemas_stay_whole(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    a, b = ({"type": "object", "properties": {name: {"const": 1}}, "required": [name]} for name in "ab")
    assert not follows(grammars.json_schema(a), tokenizer, '{"a":1,"b"')
    assert follows(grammars.json_schema({"allOf": [a, b]}), tokenizer, '{"a":1,"b":1}')
    assert follows(grammars.json_schema({"anyOf": [a, b]}), tokenizer, '{"b":1}')


def follows(constraint: GrammarConstraint, tokenizer: HFTokenizer, text: str) -> bool:
    """Whether the grammar lets a text begin with this."""
    try:
        constraint.mask(tokenizer.encode(text))
    except InferenceError:
        return False
    return True


@st.composite
def schemas(draw: Any, depth: int = 2) -> dict[str, Any]:
    kinds = ["integer", "boolean", "string", "enum", "number", "null"] + ["array", "object", "anyOf"] * (depth > 0)
    kind = draw(st.sampled_from(kinds))
    if kind == "integer":
        low = draw(st.integers(-1000, 1000))
        return {"type": "integer", "minimum": low, "maximum": low + draw(st.integers(0, 500))}
    if kind == "string":
        return {"type": "string", "maxLength": draw(st.integers(0, 6))}
    if kind == "enum":
        return {"enum": draw(st.lists(st.one_of(st.text('abé"\\ \n', max_size=4), st.integers(-9, 9)), min_size=1))}
    if kind == "array":
        return {"type": "array", "items": draw(schemas(depth - 1)), "maxItems": draw(st.integers(0, 3))}
    if kind == "object":
        names = draw(st.lists(st.text('abc"é ', min_size=1, max_size=4), max_size=4, unique=True))
        properties = {name: draw(schemas(depth - 1)) for name in names}
        required = [name for name in names if draw(st.booleans())]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "anyOf":
        return {"anyOf": draw(st.lists(schemas(depth - 1), min_size=1, max_size=3))}
    return {"type": kind}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(schema=schemas(), seed=st.integers(0, 2**32 - 1))
def test_any_schema_is_obeyed_or_refused(
    grammars: Grammars, tokenizer: HFTokenizer, schema: dict[str, Any], seed: int
) -> None:
    try:
        constraint = grammars.json_schema(schema)
    except RequestError:
        return
    text = random_text(constraint, tokenizer, seed, end_ids(tokenizer))
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": False}, "uniqueItems"),
        ({"properties": {"a": {"not": {"type": "null"}}}}, "not"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"if": {}, "then": {}}, "if"),
        ({"propertyNames": {}}, "propertyNames"),
        ({"dependencies": {}}, "dependencies"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "dependentRequired": {"a": ["b"]}},
            "dependentRequired",
        ),
        ({"anyOf": [{"items": {"x-guidance": {"lenient": True}}}]}, "x-guidance"),
        ({"const": 2**53 + 1}, str(2**53 + 1)),
        ({"enum": [1, [-(2**60)]]}, str(-(2**60))),
        ({"type": "integer", "maximum": 2**53 + 2}, "maximum"),
        ({"type": "string", "format": "uri-reference"}, "uri-reference"),
        ({"type": "string", "format": "regex"}, "regex"),
        ({"type": "string", "format": "int32"}, "int32"),
        ({"type": "string", "format": "byte"}, "byte"),
        ({"type": "string", "format": "password"}, "password"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": r"\ba"}, "lookarounds"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "minProperties|min/maxProperties"),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, "oneOf"),
        ({"type": "object", "properties": {f"p{i}": {} for i in range(501)}}, "501 optional"),
        ({"const": f"a{END}"}, re.escape(END)),
        ({"properties": {"a": {"enum": ["x", f"{END}"]}}}, re.escape(END)),
        ({"properties": {f"a{END}": {}}}, re.escape(END)),
        ({"enum": []}, "empty"),
        ({"type": "text"}, "text"),
        ({"$ref": "http://example.com/schema"}, "example.com"),
        (True, "must be an object"),
    ],
    ids=str,
)
def test_what_cannot_be_guaranteed_is_refused_by_name(grammars: Grammars, schema: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named) as error:
        grammars.json_schema(schema)
    assert error.value.param == "json_schema"


def test_a_property_may_have_the_name_of_a_keyword(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    schema = {"properties": {"not": {"const": "if"}, "uniqueItems": {"enum": [{"contains": 1}]}}, "type": "object"}
    schema |= {"required": ["not", "uniqueItems"], "additionalProperties": False, "description": f"no {END}"}
    text = random_text(grammars.json_schema(schema), tokenizer, 0, end_ids(tokenizer))
    assert text == '{"not":"if","uniqueItems":{"contains":1}}'


def test_500_optional_properties_work(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {f"p{i}": {"const": i} for i in range(500)},
        "additionalProperties": False,
    }
    constraint = grammars.json_schema(schema)
    assert follows(constraint, tokenizer, '{"p17":17,"p499":499}')


@pytest.mark.parametrize("seed", range(5))
def test_regex_choice_and_lark(grammars: Grammars, tokenizer: HFTokenizer, seed: int) -> None:
    ends = end_ids(tokenizer)
    text = random_text(grammars.regex("[ab]{3}-[0-9]+"), tokenizer, seed, ends)
    assert text is not None
    assert re.fullmatch("[ab]{3}-[0-9]+", text)
    choices = ['a"b\\', "a", "new\nline", "é (x)+"]
    assert random_text(grammars.choice(choices), tokenizer, seed, ends) in choices
    assert all(follows(grammars.choice(choices), tokenizer, text) for text in choices[:3])
    text = random_text(grammars.lark('start: "(" inner ")"\ninner: "x" | "(" inner ")"'), tokenizer, seed, ends)
    assert text is None or re.fullmatch(r"\(+x\)+", text)


@pytest.mark.parametrize(
    ("kind", "argument", "named"),
    [
        ("regex", "[", "regular expression"),
        ("regex", "(?<=a)b", "look-around"),
        ("regex", f"a{re.escape(END)}|{END}", re.escape(END)),
        ("choice", [], "at least one"),
        ("choice", ["a", ""], "empty"),
        ("choice", [END], re.escape(END)),
        ("lark", 'begin: "a"', "start"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(grammars: Grammars, kind: str, argument: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        getattr(grammars, kind)(argument)


def test_the_end_is_allowed_where_the_text_is_complete_and_by_every_end_token(
    grammars: Grammars, tokenizer: HFTokenizer
) -> None:
    ends = end_ids(tokenizer)
    constraint = grammars.regex("a+b?")
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    assert not set(ends) & set(allowed(constraint, []))
    assert set(ends) < set(allowed(constraint, [a]))
    assert allowed(constraint, [a, b]).tolist() == ends
    assert allowed(constraint, [a, ends[1]]).tolist() == ends  # a request that does not stop there


def test_a_constraint_may_be_asked_again_and_begin_anew(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    """As after a request was put back: its tokens are computed again."""
    constraint, generated = grammars.json_schema(SCHEMA), tokenizer.encode('{"name":"Ada","age":3')
    masks = [constraint.mask(generated[:n]).tolist() for n in range(len(generated) + 1)]
    for n in (len(generated), 2, 2, 5, 0, 1):
        assert constraint.mask(generated[:n]).tolist() == masks[n]


def test_a_token_against_the_grammar_is_an_error_and_no_end(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    constraint = grammars.json_object()
    with pytest.raises(InferenceError, match="grammar failed"):
        constraint.mask(tokenizer.encode("no JSON"))


def test_without_an_end_token_there_are_no_grammars(tokenizer: HFTokenizer) -> None:
    with pytest.raises(ConfigError, match="end token"):
        Grammars(tokenizer, vocab_size=303, end_ids=[])


def test_character_tokenizers_have_grammars_too() -> None:
    tokenizer = CharacterTokenizer(["abcé"])
    grammars = Grammars(tokenizer, vocab_size=tokenizer.vocab_size, end_ids=[4])
    constraint = grammars.regex("[bé]c")
    assert [tokenizer.decode(allowed(constraint, ids)) for ids in ([], tokenizer.encode("é"))] == ["bé", "c"]
    assert allowed(constraint, tokenizer.encode("bc")).tolist() == [4]


def test_masks_are_computed_in_threads_and_an_error_is_its_own_rows(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    good, bad = grammars.regex("a*"), grammars.regex("b")
    a = tokenizer.encode("a")
    with ThreadPoolExecutor(2) as pool:
        first, failed, third = compute_masks(pool, [(good, a), (bad, a), (grammars.regex("c"), [])])
    assert isinstance(failed, InferenceError)
    assert isinstance(first, np.ndarray)
    assert isinstance(third, np.ndarray)
    assert first.tolist() == good.mask(a).tolist()


def test_the_engine_keeps_to_a_schema_at_any_temperature(grammars: Grammars, tokenizer: HFTokenizer) -> None:
    config = ModelConfig(vocab_size=330, hidden_size=32, num_layers=1, num_heads=2, max_seq_len=256, dropout=0.0)
    engine = Engine(Model(config, init_params(config, seed=0)), max_batch=4)
    ends = tuple(end_ids(tokenizer))
    heard: list[list[TokenEvent | Exception]] = []
    for seed, temperature in enumerate((0.0, 0.8, 1.0, 5.0, 1.0, 1.0)):
        heard.append([])
        sampling = SamplingParams(temperature=temperature, top_p=0.9, seed=seed, max_new_tokens=200, stop_ids=ends)
        constraint = grammars.json_schema(SCHEMA) if seed < 5 else None
        engine.submit(Request(prompt_ids=(5, 6), sampling=sampling, constraint=constraint), heard[-1].append)
    while engine.step():
        pass
    for events in heard[:5]:
        assert not any(isinstance(event, LLMError) for event in events)
        tokens = [event.token for event in events if isinstance(event, TokenEvent)]
        assert isinstance(events[-1], TokenEvent)
        if events[-1].finish == "stop":
            jsonschema.validate(json.loads(tokenizer.decode(tokens[:-1])), SCHEMA)
    assert sum(isinstance(events[-1], TokenEvent) and events[-1].finish == "stop" for events in heard[:5]) >= 3
