"""Texts that are held to a form: response_format, structured_outputs, guided_*."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.server.in_process import App, serving

CHAT = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "Say"}]
RANDOM: Any = {"temperature": 2, "max_tokens": 200}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "note": {"const": None},
    },
    "required": ["name", "age", "note"],
}
JSON_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def app(reciter: Path) -> Iterator[App]:
    with serving(reciter) as app:
        yield app


def contents(app: App, **fields: Any) -> list[str]:
    """Of both routes, twice each."""
    texts = []
    for seed in range(2):
        chat = app.post(CHAT, messages=ASK, seed=seed, **{**RANDOM, **fields})
        text = app.post("/v1/completions", prompt="Say", seed=seed, **{**RANDOM, **fields})
        assert {chat["choices"][0]["finish_reason"], text["choices"][0]["finish_reason"]} == {"stop"}
        texts += [chat["choices"][0]["message"]["content"], text["choices"][0]["text"]]
    return texts


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": JSON_SCHEMA},
        {"response_format": {**JSON_SCHEMA, "json_schema": {**JSON_SCHEMA["json_schema"], "strict": True}}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
    ],
    ids=str,
)
def test_a_schema(app: App, fields: Any) -> None:
    for text in contents(app, **fields):
        jsonschema.validate(json.loads(text), SCHEMA)
        assert json.loads(text)["note"] is None


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}], ids=str
)
def test_any_object(app: App, fields: Any) -> None:
    """Whose end is made likely, since nothing bounds it."""
    quote, colon, one, end = ([str(t)] for t in (app.model.tokenizer.encode('":1}')))
    bias = {token[0]: 6 for token in (quote, colon, one)} | {end[0]: 12}
    for text in contents(app, logit_bias=bias, **fields):
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[ab]{3}-[0-9]{2}"}, "[ab]{3}-[0-9]{2}"),
        ({"structured_outputs": {"regex": "é|中"}}, "é|中"),
        ({"guided_choice": ["yes", "no", "né"]}, "yes|no|né"),
        ({"structured_outputs": {"choice": ["one"]}}, "one"),
        ({"guided_grammar": 'start: "a" /[0-9]/ "b"'}, "a[0-9]b"),
        ({"structured_outputs": {"grammar": 'start: "x" | "y"'}}, "x|y"),
    ],
    ids=str,
)
def test_other_forms(app: App, fields: Any, pattern: str) -> None:
    for text in contents(app, **fields):
        assert re.fullmatch(pattern, text), text


def test_a_form_of_generate_and_its_stream(app: App) -> None:
    whole = app.post("/generate", prompt="Say", guided_regex="[0-9]{5}", seed=4)["generated_text"]
    assert re.fullmatch("Say[0-9]{5}", whole)
    events = app.stream("/generate", prompt="Say", guided_regex="[0-9]{5}", seed=4)
    assert "Say" + "".join(event.get("text", "") for event in events) == whole


def test_a_text_that_ends_for_length_says_so(app: App) -> None:
    answer = app.post(CHAT, messages=ASK, response_format=JSON_SCHEMA, max_tokens=5)
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format",
            "'not'",
        ),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "uniqueItems"),
        ({"structured_outputs": {"json": {"if": {}}}}, "structured_outputs.json", "'if'"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "look-around"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]", "at least 1"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_grammar": "start: ("}, "guided_grammar", "grammar"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported"),
        ({"response_format": JSON_SCHEMA, "ignore_eos": True}, "ignore_eos", "ignore_eos"),
    ],
    ids=str,
)
def test_what_cannot_be_held_to_is_refused_by_name(app: App, fields: Any, param: str, named: str) -> None:
    for stream in (False, True):
        error = app.refusal(CHAT, messages=ASK, stream=stream, **fields)
        assert error["param"] == param
        assert named in error["message"]
