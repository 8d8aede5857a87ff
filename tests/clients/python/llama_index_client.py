# /// script
# requires-python = ">=3.11"
# dependencies = ["llama-index-llms-openai-like==0.8.1"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""LlamaIndex's client for servers like OpenAI's."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

where = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
chat = OpenAILike("llm", **where, is_chat_model=True, is_function_calling_model=True, temperature=0)
assert chat.chat([ChatMessage(role="user", content="Hello!")]).message.content
assert "".join(piece.delta or "" for piece in chat.stream_chat([ChatMessage(role="user", content="Hello!")]))
completion = OpenAILike("llm", **where, temperature=0, max_tokens=5)
assert completion.complete("Say").text
assert "".join(piece.delta or "" for piece in completion.stream_complete("Say"))
