# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain-openai==1.7.4"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""LangChain: three ways of structured output, tools, embeddings."""

from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city."""

    name: str = Field(description="Its name.")
    capital: bool


@tool
def weather(city: str, days: int) -> str:
    """The weather in a city."""
    return f"{city}: sunny for {days} days"


model = ChatOpenAI(model="llm", temperature=0)
assert model.invoke("Hello!").content
assert "".join(str(chunk.content) for chunk in model.stream("Hello!"))
assert len(model.batch(["Hello!", "Say"])) == 2

methods: Any = ("function_calling", "json_schema", "json_mode")
for method in methods:
    schema: Any = City if method != "json_mode" else None
    found = model.with_structured_output(schema, method=method).invoke("A city as JSON")
    assert isinstance(found, City if schema else dict), found

bound = model.bind_tools([weather], tool_choice="weather")
asked = bound.invoke("Hello!")
[call] = asked.tool_calls
assert call["args"].keys() == {"city", "days"}
answered = model.bind_tools([weather]).invoke([HumanMessage("Hello!"), asked, weather.invoke(call)])
assert isinstance(weather.invoke(call), ToolMessage)
assert answered.content

# OpenAI's tokenizer is not the model's: texts go as they are.
embeddings = OpenAIEmbeddings(model="llm", check_embedding_ctx_length=False)
assert len(embeddings.embed_documents(["one", "two"])) == 2
assert embeddings.embed_query("one")
responses = ChatOpenAI(model="llm", temperature=0, use_responses_api=True, store=False)
assert responses.invoke("Hello!").content
