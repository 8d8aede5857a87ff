# /// script
# requires-python = ">=3.11"
# dependencies = ["openai-agents==0.24.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""OpenAI's Agents SDK, by chat completions and by responses: a tool, and a handoff."""

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)
called = []


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    called.append(city)
    return f"{city}: sunny"


client = openai.AsyncOpenAI()
once = ModelSettings(temperature=0, tool_choice="required", parallel_tool_calls=False)
plain = ModelSettings(temperature=0)
for model in (OpenAIChatCompletionsModel("llm", client), OpenAIResponsesModel("llm", client)):
    called.clear()
    reporter = Agent(name="Reporter", model=model, tools=[weather], model_settings=once)
    assert Runner.run_sync(reporter, "Hello!").final_output
    assert len(called) == 1
    poet = Agent(name="Poet", model=model, model_settings=plain)
    desk = Agent(name="Desk", model=model, handoffs=[poet], model_settings=once)
    handed_on = Runner.run_sync(desk, "Hello!")
    assert handed_on.last_agent is poet
    assert handed_on.final_output
