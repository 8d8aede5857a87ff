# /// script
# requires-python = ">=3.11"
# dependencies = ["litellm==1.110.2"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""LiteLLM."""

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would be fetched
import litellm

HELLO: Any = [{"role": "user", "content": "Hello!"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]

assert litellm.completion("openai/llm", HELLO, temperature=0).choices[0].message.content
chunks = litellm.completion("openai/llm", HELLO, temperature=0, stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
called = litellm.completion("openai/llm", HELLO, tools=TOOLS, tool_choice="required", temperature=0)
assert json.loads(called.choices[0].message.tool_calls[0].function.arguments).keys() == {"city"}
assert litellm.text_completion(model="text-completion-openai/llm", prompt="Say", max_tokens=3).choices[0].text
assert len(litellm.embedding("openai/llm", input=["one", "two"]).data) == 2
assert litellm.responses("Hello!", "openai/llm", store=False).output
try:
    litellm.completion("openai/llm", [{"role": "user", "content": "y" * 5000}])
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("the context does not overflow")
