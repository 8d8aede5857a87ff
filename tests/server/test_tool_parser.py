"""Texts of calls, in the syntax of each family and as models write them, in pieces of any length."""

import json
import random
from typing import Any

import pytest

from llm_jax.tokenizers.tool_calls import HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PLAIN, CallSyntax
from server.chat.tool_parser import ToolCallParser
from server.generation.deltas import Choice, Delta

ARGUMENTS = [{"a": 1}, {}, {"x": '}"{\\ é\n</tool_call>', "l": [1, {"b": None}]}, {"deep": {"er": [[{}]]}}]


def parse(syntax: CallSyntax, text: str, rng: random.Random, longest: int) -> tuple[str, list[tuple[str, Any]]]:
    """The content and the calls."""
    parser = ToolCallParser(syntax, ["f", "get_weather"])
    deltas, rest = [], text
    while rest:
        length = rng.randint(1, longest)
        deltas.append(Delta(*parser.push(rest[:length])))
        rest = rest[length:]
    choice = Choice.of([*deltas, Delta(*parser.end())])
    assert parser.has_calls == bool(choice.tool_calls)
    assert len({call.id for call in choice.tool_calls}) == len(choice.tool_calls)
    return choice.text, [(call.name, json.loads(call.arguments)) for call in choice.tool_calls]


@pytest.mark.parametrize("longest", [1, 3, 9, 1000])
@pytest.mark.parametrize("syntax", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PLAIN])
def test_what_is_written_is_found(syntax: CallSyntax, longest: int) -> None:
    rng = random.Random(longest)
    for before in ("", "Let me see: <tool_cal [TOOL_ ") if syntax.trigger else ("",):
        for count in range(1, 5):
            calls = [(rng.choice(["f", "get_weather"]), arguments) for arguments in ARGUMENTS[:count]]
            assert parse(syntax, before + syntax.write(calls), rng, longest) == (before, calls)


@pytest.mark.parametrize("longest", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("syntax", "text", "content", "calls"),
    [
        # Other white space, other orders, arguments as a string, no arguments: as models write them.
        (HERMES, '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>', "", [("f", {"a": 1})]),
        (HERMES, '\n\n<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>\n', "", [("f", {"a": 1})]),
        (HERMES, 'a<tool_call>{"name": "f"}</tool_call> b', "a b", [("f", {})]),
        (LLAMA, '{"type": "function", "name": "f", "parameters": {"a": [1, 2]}}', "", [("f", {"a": [1, 2]})]),
        (LLAMA, '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}', "", [("f", {}), ("f", {})]),
        (LLAMA, '{"name": "f", "arguments": "{\\"a\\": 2}"}', "", [("f", {"a": 2})]),
        (MISTRAL, '[TOOL_CALLS] [ {"name": "f", "arguments": {}, "id": "abcdefghi"} ]', "", [("f", {})]),
        (MISTRAL_ARGS, '[TOOL_CALLS]f{"a": 1}', "", [("f", {"a": 1})]),
        (PLAIN, ' {"name": "f", "arguments": {"a": null}}\n', "", [("f", {"a": None})]),
        # What is no call is text.
        (LLAMA, '{"name": "other", "x": 1} and so on', '{"name": "other", "x": 1} and so on', []),
        (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
        (PLAIN, "{broken", "{broken", []),
        (PLAIN, 'Say {"name": "f", "arguments": {}}', 'Say {"name": "f", "arguments": {}}', []),
        (HERMES, "a < b, <tool and <tool_call", "a < b, <tool and <tool_call", []),
        (HERMES, " ", " ", []),
        (HERMES, " <tool_call>\nso it is", " <tool_call>\nso it is", []),
        (HERMES, 'a<tool_call>\n{"answer": 42}</tool_call>', 'a<tool_call>\n{"answer": 42}</tool_call>', []),
        (HERMES, "<tool_call>\n", "<tool_call>\n", []),
        (HERMES, '<tool_call>\n{"na', '<tool_call>\n{"na', []),
        (HERMES, '<tool_call>{"name": "f"}</tool_call><tool_call>no', "<tool_call>no", [("f", {})]),
        (HERMES, '<tool_call>{"name": "f"}</tool_c', "", [("f", {})]),
        (MISTRAL, "[TOOL_CALLS] [ not", "[TOOL_CALLS] [ not", []),
    ],
    ids=str,
)
def test_what_models_write(syntax: CallSyntax, text: str, content: str, calls: Any, longest: int) -> None:
    assert parse(syntax, text, random.Random(longest), longest) == (content, calls)


def test_arguments_come_as_they_are_written() -> None:
    parser = ToolCallParser(HERMES, ["f"])
    pieces = [parser.push(char)[1] for char in HERMES.write([("f", {"city": "Zürich"})])]
    deltas = [delta for piece in pieces for delta in piece]
    assert (deltas[0].name, deltas[0].arguments) == ("f", "")
    assert [delta.arguments for delta in deltas[1:]] == list('{"city": "Zürich"}')


@pytest.mark.parametrize(("syntax", "length"), [(HERMES, 29), (MISTRAL, 9)])
def test_ids_are_as_long_as_the_family_wants_them(syntax: CallSyntax, length: int) -> None:
    _, (first, *_) = ToolCallParser(syntax, ["f"]).push(syntax.write([("f", {})]))
    assert first.id is not None
    assert len(first.id) == length
