# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==3.57.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""OpenAI's own client."""

import json
from collections.abc import Callable
from typing import Any

import openai
from pydantic import BaseModel

MESSAGES: Any = [{"role": "system", "content": "You recite."}, {"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}]
FLAT_TOOLS: Any = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
client = openai.OpenAI()


class City(BaseModel):
    name: str
    capital: bool


def chat() -> None:
    answer = client.chat.completions.create(model="llm", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content
    stream = client.chat.completions.create(
        model="llm", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage
    with client.chat.completions.stream(model="llm", messages=MESSAGES, temperature=0) as events:
        assert [event.type for event in events][-1] == "content.done"
    many = client.chat.completions.create(
        model="llm", messages=MESSAGES, n=2, seed=1, logprobs=True, top_logprobs=2, max_completion_tokens=3, stop=["!"]
    )
    assert [len(choice.logprobs.content or []) for choice in many.choices if choice.logprobs] == [3, 3]


def tools() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = client.chat.completions.create(
            model="llm", messages=MESSAGES, tools=TOOLS, tool_choice=choice, temperature=0, parallel_tool_calls=False
        )
        [call] = answer.choices[0].message.tool_calls or []
        arguments = json.loads(call.function.arguments)
        assert isinstance(arguments["days"], int), arguments
    replayed = [
        *MESSAGES,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny."},
    ]
    assert client.chat.completions.create(model="llm", messages=replayed, tools=TOOLS).choices[0].message
    stream = client.chat.completions.create(
        model="llm", messages=MESSAGES, tools=TOOLS, tool_choice="required", temperature=0, stream=True
    )
    pieces = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices]
    assert pieces[0].function
    assert pieces[0].function.name == "weather"
    streamed = "".join(piece.function.arguments or "" for piece in pieces if piece.index == 0 and piece.function)
    assert json.loads(streamed).keys() == {"city", "days"}
    parsed = client.chat.completions.parse(model="llm", messages=MESSAGES, response_format=City, temperature=0)
    assert isinstance(parsed.choices[0].message.parsed, City)


def completions() -> None:
    answer = client.completions.create(model="llm", prompt="Say", logprobs=2, echo=True, max_tokens=3, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert len(logprobs.tokens or []) == 6
    assert "".join(logprobs.tokens or []) == answer.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(model="llm", prompt="Say", stream=True))


def embeddings() -> None:
    answer = client.embeddings.create(model="llm", input=["one", "two"])
    assert len(answer.data) == 2
    assert abs(sum(value**2 for value in answer.data[0].embedding) - 1) < 1e-5
    assert len(client.embeddings.create(model="llm", input="one", dimensions=4).data[0].embedding) == 4


def responses() -> None:
    answer = client.responses.create(model="llm", input="Hello!", temperature=0)
    assert answer.output_text
    with client.responses.stream(model="llm", input="Hello!", temperature=0, instructions="You recite.") as events:
        assert [event.type for event in events][-1] == "response.completed"
    called = client.responses.create(
        model="llm", input="Hello!", tools=FLAT_TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    [call] = [item for item in called.output if item.type == "function_call"]
    history: Any = [
        {"role": "user", "content": "Hello!"},
        *called.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
    ]
    assert client.responses.create(model="llm", input=history, tools=FLAT_TOOLS).status
    with client.responses.stream(model="llm", input="Hello!", tools=FLAT_TOOLS, tool_choice="required") as events:
        kinds = {event.type for event in events}
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    parsed = client.responses.parse(model="llm", input="Hello!", text_format=City, temperature=0)
    assert isinstance(parsed.output_parsed, City)


def errors() -> None:
    for call, kind in (
        (lambda: client.chat.completions.create(model="llm", messages=[]), openai.BadRequestError),
        (lambda: client.get("/nowhere", cast_to=object), openai.NotFoundError),
        (lambda: client.responses.create(model="llm", input="a", previous_response_id="x"), openai.BadRequestError),
    ):
        error = raised(call)
        assert isinstance(error, kind), error
        assert error.body


def raised(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


models = client.models.list().data
assert client.models.retrieve(models[0].id) == models[0]
for part in (chat, tools, completions, embeddings, responses, errors):
    part()
