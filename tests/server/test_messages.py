"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

import json
from typing import Any

import httpx
import pytest

from tests.server.live import Server, running
from tests.server.tiny import CONTEXT, RECITED, TOKENS

ANSWER = RECITED.removeprefix(" ")
PROMPT = "System: You recite.\nUser: Hello!\nAssistant:"
BODY: dict[str, Any] = {
    "model": "llm",
    "max_tokens": 50,
    "temperature": 0,
    "system": [{"type": "text", "text": "You recite.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}],
}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event, whose name is its type."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for frame in response.text.rstrip().split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_message(http: httpx.Client) -> None:
    answer = http.post("/v1/messages", json=BODY, headers={"anthropic-version": "2023-06-01"}).json()
    assert answer.pop("id").startswith("msg_")
    usage = answer.pop("usage")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "llm",
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(PROMPT)
    assert usage["output_tokens"] == TOKENS


@pytest.mark.parametrize(
    ("change", "text", "end"),
    [
        ({"max_tokens": 3}, "Hi", ("max_tokens", None)),
        ({"stop_sequences": ["中", "zzz"]}, "Hi😀,", ("stop_sequence", "中")),
        ({"stop_sequences": ["zzz"]}, ANSWER, ("end_turn", None)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_why_a_message_ends(
    http: httpx.Client, change: dict[str, Any], text: str, end: tuple[str, str | None], stream: bool
) -> None:
    response = http.post("/v1/messages", json={**BODY, **change, "stream": stream})
    if stream:
        *_, last, _stop = found = events(response)
        said = "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")
        ended = last["delta"]
    else:
        ended = response.json()
        said = "".join(block["text"] for block in ended["content"])
    assert said == text
    assert (ended["stop_reason"], ended["stop_sequence"]) == end


def test_a_streamed_message(http: httpx.Client) -> None:
    start, block, *deltas, block_stop, end, stop = events(http.post("/v1/messages", json={**BODY, "stream": True}))
    assert start["type"] == "message_start"
    assert start["message"]["content"] == []
    assert block == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert {(delta["type"], delta["index"], delta["delta"]["type"]) for delta in deltas} == {
        ("content_block_delta", 0, "text_delta")
    }
    assert "".join(delta["delta"]["text"] for delta in deltas) == ANSWER
    assert block_stop == {"type": "content_block_stop", "index": 0}
    assert end["type"] == "message_delta"
    assert end["usage"]["output_tokens"] == TOKENS
    assert stop == {"type": "message_stop"}


def test_tokens_are_counted_as_they_are_charged(http: httpx.Client) -> None:
    counted = {name: BODY[name] for name in ("model", "system", "messages")}
    assert http.post("/v1/messages/count_tokens", json=counted).json() == {"input_tokens": len(PROMPT)}


def test_an_answer_may_be_begun_by_the_client(http: httpx.Client) -> None:
    messages = [*BODY["messages"], {"role": "assistant", "content": "Hi"}]
    answer = http.post("/v1/messages", json={**BODY, "messages": messages}).json()
    assert answer["content"][0]["text"] == ANSWER.removeprefix("Hi")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "y" * 600}]}, "messages"),
        ({"max_tokens": CONTEXT}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_field_is_anthropics_error_and_names_it(http: httpx.Client, change: dict[str, Any], name: str) -> None:
    response = http.post("/v1/messages", json={**BODY, **change})
    assert response.status_code == 400
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert name in body["error"]["message"]


def test_other_errors_have_anthropics_form_too(reciter: Any) -> None:
    with running(model_path=reciter, api_key="sesame", max_body_bytes=1000) as server:
        _check_errors(server)


def _check_errors(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers={"x-api-key": "sesame"}) as http:
        assert http.post("/v1/messages", json=BODY).status_code == 200
        wrong = http.post("/v1/messages", json=BODY, headers={"x-api-key": "wrong"})
        large = http.post("/v1/messages", json={**BODY, "system": "y" * 1000})
        get = http.get("/v1/messages")
        openai = http.post("/v1/chat/completions", json={}, headers={"x-api-key": "wrong"})
    assert [(answer.status_code, answer.json()["error"]["type"]) for answer in (wrong, large, get)] == [
        (401, "authentication_error"),
        (413, "request_too_large"),
        (405, "invalid_request_error"),
    ]
    assert all(answer.json()["type"] == "error" for answer in (wrong, large, get))
    assert "type" not in openai.json()
