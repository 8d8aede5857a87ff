# /// script
# requires-python = ">=3.11"
# dependencies = ["anthropic==2.14.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Anthropic's own client."""

from typing import Any

import anthropic

HELLO: Any = [{"role": "user", "content": "Hello!"}]
TOOLS: Any = [
    {
        "name": "weather",
        "description": "The weather somewhere.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    }
]
GREEDY = {"temperature": 0}  # which the client no longer names
client = anthropic.Anthropic()

counted = client.messages.count_tokens(model="llm", messages=HELLO, system="You recite.")
answer = client.messages.create(model="llm", max_tokens=50, messages=HELLO, system="You recite.", extra_body=GREEDY)
assert answer.content[0].type == "text"
assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == counted.input_tokens
ended = client.messages.create(model="llm", max_tokens=50, messages=HELLO, stop_sequences=["中"], extra_body=GREEDY)
assert (ended.stop_reason, ended.stop_sequence) == ("stop_sequence", "中")

with client.messages.stream(model="llm", max_tokens=50, messages=HELLO, extra_body=GREEDY) as stream:
    text = "".join(stream.text_stream)
    assert stream.get_final_message().content[0].text == text == answer.content[0].text

choices: Any = [{"type": "any"}, {"type": "tool", "name": "weather"}]
for choice in choices:
    called = client.messages.create(
        model="llm", max_tokens=200, messages=HELLO, tools=TOOLS, tool_choice=choice, extra_body=GREEDY
    )
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if block.type == "tool_use"]
    assert call.input.keys() == {"city", "days"}
results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny."}]}]
history: Any = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": results}]
assert client.messages.create(model="llm", max_tokens=20, messages=history, tools=TOOLS).content

with client.messages.stream(
    model="llm", max_tokens=200, messages=HELLO, tools=TOOLS, tool_choice={"type": "any"}, extra_body=GREEDY
) as stream:
    assert {"input_json", "content_block_stop"} <= {event.type for event in stream}
    assert stream.get_final_message().content[-1].input.keys() == {"city", "days"}

problem = None
try:
    client.messages.create(model="llm", max_tokens=5, messages=[])
except anthropic.BadRequestError as error:
    problem = error.type
assert problem == "invalid_request_error"
