"""Tool calls: whatever the model, the arguments follow the tool's schema; streamed pieces make the same calls."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from llm_jax.inference import Grammars
from llm_jax.tokenizers import call_syntax, load_tokenizer, render_chat
from server.chat.tool_parser import ToolCallParser
from tests.real_models import real
from tests.server.in_process import App, serving
from tests.server.tiny import RECITED, save_reciter

CHAT = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "Say"}]
# How families write turns and calls, in short.
SHOW_TOOLS = "{% if tools %}{{ tools | tojson }}|{% endif %}"
HERMES = (
    SHOW_TOOLS
    + "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    + '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}|{% endfor %}assistant:"
)
LLAMA = (
    "<|start_header_id|>"
    + SHOW_TOOLS
    + "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    + '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
    + "{% endfor %}|{% endfor %}assistant:"
)
MISTRAL = (
    SHOW_TOOLS
    + "{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    + "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    + "{% endfor %}]{% else %}{{ m.role }}: {{ m.content }}|{% endif %}{% endfor %}assistant:"
)
MISTRAL_ARGS = SHOW_TOOLS + "[TOOL_CALLS]{{ '[ARGS]' }}{% for m in messages %}{{ m.content }}{% endfor %}assistant:"
FAMILIES = {
    "plain": (None, ()),
    "hermes": (HERMES, ()),
    "hermes, special": (HERMES, ("<tool_call>", "</tool_call>")),
    "llama": (LLAMA, ()),
    "mistral": (MISTRAL, ("[TOOL_CALLS]",)),
    "mistral, args": (MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]")),
}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "units": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}
CLOCK = {"type": "object", "properties": {"zone": {"type": ["string", "null"], "maxLength": 5}}, "required": ["zone"]}
SCHEMAS = {"get_weather": WEATHER, "clock": CLOCK}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": f"The {name}.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
RANDOM = {"temperature": 2, "max_tokens": 250}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    template, special = FAMILIES[request.param]
    path = save_reciter(
        tmp_path_factory.mktemp("models") / "m", context=2048, chat_template=template, special_tokens=special
    )
    with serving(path) as app:
        yield app


def check(calls: Any) -> list[str]:
    """Checks whole calls against the tools; returns their names."""
    for call in calls:
        assert call["type"] == "function"
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    assert len({call["id"] for call in calls}) == len(calls)
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("seed", range(2))
def test_a_required_call_follows_its_schema(family: App, seed: int) -> None:
    answer = family.post(
        CHAT, messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed, **RANDOM
    )
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert len(check(choice["message"]["tool_calls"])) == 1
    assert choice["message"]["content"] is None


def test_several_calls_and_those_of_a_stream_are_the_same(family: App) -> None:
    body: Any = {
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": "required",
        "seed": 3,
        "logit_bias": {"0": -4},
        **RANDOM,
    }
    [choice] = family.post(CHAT, **body)["choices"]
    calls = choice["message"]["tool_calls"]
    whole = calls[:-1] if choice["finish_reason"] == "length" else calls
    check(whole)
    pieces: dict[int, dict[str, str]] = {}
    events = family.stream(CHAT, **body)
    for event in events:
        for delta in event["choices"][0]["delta"].get("tool_calls", []):
            if "id" in delta:
                assert delta["index"] == len(pieces)
                pieces[delta["index"]] = {"name": delta["function"]["name"], "arguments": ""}
            pieces[delta["index"]]["arguments"] += delta["function"]["arguments"]
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert list(pieces.values()) == [call["function"] for call in calls]
    assert len(events) > 10


def test_a_named_tool_is_called(family: App) -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    [choice] = family.post(CHAT, messages=ASK, tools=TOOLS, tool_choice=named, seed=1, **RANDOM)["choices"]
    assert check(choice["message"]["tool_calls"]) == ["clock"]


def test_allowed_tools_alone_are_called(family: App) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    choice_field = {"type": "allowed_tools", "allowed_tools": allowed}
    for seed in range(3):
        answer = family.post(CHAT, messages=ASK, tools=TOOLS, tool_choice=choice_field, seed=seed, **RANDOM)
        assert {call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]} == {"clock"}


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_text_stays_text(family: App, choice: str) -> None:
    answer = family.post(CHAT, messages=ASK, tools=TOOLS, tool_choice=choice, temperature=0)
    message = answer["choices"][0]["message"]
    assert message["content"].strip() == RECITED.strip()
    assert "tool_calls" not in message
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_what_a_call_and_its_result_look_like_in_the_next_prompt(family: App) -> None:
    call = {
        "id": "call_0123456789abcdef",
        "type": "function",
        "function": {"name": "clock", "arguments": '{"zone": "C"}'},
    }
    messages: Any = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"},
    ]
    answer = family.post(CHAT, messages=messages, tools=TOOLS, temperature=0)
    assert answer["choices"][0]["message"]["content"].strip() == RECITED.strip()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"type": "object", "properties": {"a": {"not": {}}}}, "'not'"), ({"uniqueItems": True}, "'uniqueItems'")],
)
def test_a_schema_that_cannot_be_held_to_is_refused_by_name(family: App, parameters: Any, named: str) -> None:
    tools = [{"type": "function", "function": {"name": "odd", "parameters": parameters}}]
    error = family.refusal(CHAT, messages=ASK, tools=tools)
    assert error["param"] == "tools"
    assert "'odd'" in error["message"]
    assert named in error["message"]


def test_calls_that_end_for_length_say_so(family: App) -> None:
    [choice] = family.post(CHAT, messages=ASK, tools=TOOLS, tool_choice="required", max_tokens=12)["choices"]
    assert choice["finish_reason"] == "length"


def test_a_form_of_the_text_beside_tools(family: App) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [17]}}}
    finished = 0
    for seed in range(4):
        [choice] = family.post(CHAT, messages=ASK, tools=TOOLS, response_format=form, seed=seed, **RANDOM)["choices"]
        if choice["finish_reason"] != "length":  # a string of random letters may not end in time
            assert choice["message"]["content"] == "17" or check(choice["message"]["tool_calls"])
            finished += 1
    assert finished > 1


def test_a_call_in_the_template_of_a_real_family() -> None:
    """The call that Qwen 3's own template writes is what the grammar lets through, and what the parser finds."""
    tokenizer = load_tokenizer(real("qwen3"))
    syntax = call_syntax(tokenizer)
    arguments = {"city": "Zürich", "days": 3}
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [*ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
    rendered = render_chat(tokenizer, messages, tools=TOOLS, add_generation_prompt=False)
    written = rendered[rendered.rindex("<tool_call>") :].removesuffix("<|im_end|>\n")
    assert written == syntax.write([("get_weather", arguments)])
    grammars = Grammars(tokenizer, vocab_size=tokenizer.vocab_size, end_ids=[tokenizer.encode("<|im_end|>")[0]])
    constraint = grammars.tool_calls(syntax, [("get_weather", WEATHER)])
    ids = tokenizer.encode(f"So: {written}")
    for count, token in enumerate(ids):
        assert constraint.mask(ids[:count])[token // 32] >> (token % 32) & 1, tokenizer.decode(ids[:count])
    parser = ToolCallParser(syntax, ["get_weather"])
    pieces = [parser.push(tokenizer.decode([token])) for token in ids]
    assert "".join(text for text, _ in pieces) == "So: "
    found = "".join(delta.arguments for _, deltas in pieces for delta in deltas)
    assert json.loads(found) == arguments
