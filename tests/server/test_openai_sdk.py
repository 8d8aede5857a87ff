"""The official SDK against /v1."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.live import Server
from tests.server.tiny import CONTEXT, RECITED, TOKENS

HELLO: Any = [{"role": "system", "content": "You recite."}, {"role": "user", "content": "Hello!"}]
PROMPT = "System: You recite.\nUser: Hello!\nAssistant:"  # the default chat format: one byte is one token here
ANSWER = RECITED.removeprefix(" ")  # the space behind "Assistant:" is the format's


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="whatever", messages=HELLO, temperature=0)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "whatever")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": TOKENS,
        "total_tokens": len(PROMPT) + TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="llm", messages=HELLO, temperature=0, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    contents = [delta.content for delta in deltas[1:-1]]
    assert contents == [*"Hi😀,中!"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.object) for chunk in chunks}) == 1


def test_usage_is_the_last_chunk_where_it_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="llm", messages=HELLO, temperature=0, stream=True, max_tokens=4, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(PROMPT), 4)


def test_content_may_come_in_parts(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    answer = client.chat.completions.create(
        model="llm", messages=[{"role": "developer", "content": "You recite."}, {"role": "user", "content": parts}]
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(PROMPT)


def test_the_newer_name_of_the_limit(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="llm", messages=HELLO, temperature=0, max_completion_tokens=3)
    assert answer.choices[0].message.content == "Hi"
    assert answer.choices[0].finish_reason == "length"


def test_every_supported_setting_at_once(client: openai.OpenAI) -> None:
    settings: Any = {
        "max_tokens": 20,
        "temperature": 1.5,
        "top_p": 0.9,
        "seed": 5,
        "stop": ["zzz"],
        "n": 1,
        "user": "me",
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -1},
        "extra_body": {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2},
    }
    texts = {
        client.chat.completions.create(model="llm", messages=HELLO, **settings).choices[0].message.content
        for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(("presence", "repetition"), [(1.0, 2.0), (-1.0, 0.5), (0.0, 1.0)])
def test_presence_penalty_is_a_repetition_penalty(client: openai.OpenAI, presence: float, repetition: float) -> None:
    def text(**settings: Any) -> str | None:
        answer = client.chat.completions.create(
            model="llm", messages=HELLO, seed=1, temperature=2, max_tokens=40, **settings
        )
        return answer.choices[0].message.content

    assert text(presence_penalty=presence) == text(extra_body={"repetition_penalty": repetition})
    assert text(presence_penalty=presence, extra_body={"repetition_penalty": 1.3}) == text(
        extra_body={"repetition_penalty": 1.3}
    )


def test_completions_of_text_and_of_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="llm", prompt=["Say", "Hi"], temperature=0)
    assert [choice.text for choice in answer.choices] == [RECITED, RECITED.removeprefix(" Hi")]
    assert [choice.index for choice in answer.choices] == [0, 1]
    ids = client.completions.create(model="llm", prompt=[60, 61, 62], temperature=0)
    assert ids.choices[0].text == RECITED
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_streamed_completions_of_several_prompts(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    ends = {}
    for chunk in client.completions.create(model="llm", prompt=["Say", "Hi"], temperature=0, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
        ends[chunk.choices[0].index] = chunk.choices[0].finish_reason
    assert texts == {0: RECITED, 1: RECITED.removeprefix(" Hi")}
    assert ends == {0: "stop", 1: "stop"}


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object) == ("llm", "model")
    assert client.models.retrieve("llm") == model
    assert model.model_dump()["max_model_len"] == CONTEXT
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a", "nickname": "b"}]}, "messages[0].nickname"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "y" * 600}]}, "messages"),
        ({"max_tokens": CONTEXT}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"min_tokens": 60, "max_tokens": 50}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias"),
        ({"stream_options": {"include_everything": True}}, "stream_options.include_everything"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"nonsense": 5}, "nonsense"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = http.post("/v1/chat/completions", json={"messages": HELLO, **change})
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 400


def test_a_prompt_that_is_too_long_has_openais_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="llm", messages=[{"role": "user", "content": "y" * 600}])
    assert caught.value.code == "context_length_exceeded"


def test_explicit_nulls_are_defaults(http: httpx.Client) -> None:
    nulls = dict.fromkeys(["tools", "tool_choice", "n", "stop", "logprobs", "response_format", "top_p", "seed"])
    response = http.post("/v1/chat/completions", json={"messages": HELLO, "temperature": 0, **nulls})
    assert response.json()["choices"][0]["message"]["content"] == ANSWER


def test_the_client_retries_while_the_model_is_loaded(reciter: Path) -> None:
    server = Server(model_path=reciter)
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=100) as client:
            raw = client.chat.completions.with_raw_response.create(model="llm", messages=HELLO, temperature=0)
        assert raw.retries_taken > 0
        assert raw.parse().choices[0].message.content == ANSWER
    finally:
        server.stop()
