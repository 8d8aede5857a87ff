"""/v1/responses with the official SDK, whose accumulator raises on events out of order."""

from typing import Any

import httpx
import openai
import pytest

from tests.server.tiny import CONTEXT, RECITED, TOKENS

ANSWER = RECITED.removeprefix(" ")
PROMPT = "User: Hello!\nAssistant:"


def test_a_response(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="whatever", input="Hello!", temperature=0)
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.model, answer.status) == ("response", "whatever", "completed")
    assert answer.output_text == ANSWER
    assert answer.store is False
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (len(PROMPT), TOKENS)


def test_a_conversation_of_items_renders_as_the_same_chat(client: openai.OpenAI) -> None:
    chat: Any = [
        {"role": "system", "content": "You recite."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Go on"},
    ]
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo!"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
        },
        {"type": "message", "role": "user", "content": "Go on"},
    ]  # fmt: skip
    response = client.responses.create(model="llm", instructions="You recite.", input=items, max_output_tokens=1)
    completion = client.chat.completions.create(model="llm", messages=chat, max_tokens=1)
    assert response.usage
    assert completion.usage
    assert response.usage.input_tokens == completion.usage.prompt_tokens


def test_a_response_that_ends_for_length_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="llm", input="Hello!", temperature=0, max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "Hi"


def test_a_stream_has_openais_events_in_openais_order(client: openai.OpenAI) -> None:
    with client.responses.stream(model="llm", input="Hello!", temperature=0) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == ANSWER
    assert len(deltas) > 3
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.usage is not None
    assert final.usage.output_tokens == TOKENS


def test_a_stream_names_its_events_and_has_no_other_end(http: httpx.Client) -> None:
    response = http.post("/v1/responses", json={"input": "Hello!", "stream": True, "temperature": 0})
    frames = response.text.rstrip().split("\n\n")
    assert all(frame.startswith("event: response.") for frame in frames)
    assert frames[-1].startswith("event: response.completed\n")


def test_logprobs_where_they_are_included(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="llm", input="Hello!", temperature=0, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    item: Any = answer.output[0]
    logprobs = item.content[0].logprobs
    assert b"".join(bytes(token.bytes) for token in logprobs).decode().strip() == ANSWER
    assert all(len(token.top_logprobs) == 2 for token in logprobs)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": 0}, "store"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": CONTEXT}, "max_output_tokens"),
        ({"input": "y" * 600}, "input"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = http.post("/v1/responses", json={"input": "Hello!", **change})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_neutral_values_are_accepted(http: httpx.Client) -> None:
    neutral = {
        "store": False, "background": False, "truncation": "disabled", "service_tier": "auto", "metadata": {},
        "parallel_tool_calls": True, "tools": [], "tool_choice": "auto", "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": None, "summary": None}, "text": {"format": {"type": "text"}}, "top_p": 1, "user": "u",
        "previous_response_id": None, "prompt_cache_key": "k", "safety_identifier": "u", "instructions": None,
    }  # fmt: skip
    assert http.post("/v1/responses", json={"input": "Hello!", **neutral}).status_code == 200
