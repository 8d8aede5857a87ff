# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Pydantic AI."""

import asyncio
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


class City(BaseModel):
    name: str
    capital: bool


settings: Any = {"temperature": 0}
chat = OpenAIChatModel("llm")
agent = Agent(chat, system_prompt="You recite.", model_settings=settings)
assert agent.run_sync("Hello!").output


async def streamed() -> str:
    async with agent.run_stream("Hello!") as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


assert asyncio.run(streamed())
outputs: Any = (ToolOutput(City), NativeOutput(City))
for output in outputs:
    assert isinstance(Agent(chat, output_type=output, model_settings=settings).run_sync("A city").output, City)

helped = Agent(chat, output_type=City, model_settings=settings)


@helped.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: sunny"


history = helped.run_sync("A city").all_messages()
assert agent.run_sync("Go on", message_history=history).output
responses = OpenAIResponsesModel("llm", settings={"temperature": 0})
assert Agent(responses).run_sync("Hello!").output
