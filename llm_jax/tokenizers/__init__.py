"""Text to ids and back: characters, byte-level BPE, Hugging Face; chat templates; streaming decoding.

A name is imported at its first use: inference needs the protocol and the streaming decoder, and runs where
`tokenizers` and `jinja2` are not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jax.tokenizers.answers import Span, encode_answers, find_answers
    from llm_jax.tokenizers.base import ChatTemplate, Tokenizer
    from llm_jax.tokenizers.bpe import BPETokenizer
    from llm_jax.tokenizers.character import CharacterTokenizer
    from llm_jax.tokenizers.chat import DEFAULT_CHAT_TEMPLATE, answer_bounds, chat_template_source, render_chat
    from llm_jax.tokenizers.files import TokenizerFiles
    from llm_jax.tokenizers.huggingface import HFTokenizer
    from llm_jax.tokenizers.identity import fingerprint
    from llm_jax.tokenizers.load import load_tokenizer
    from llm_jax.tokenizers.stream import IncrementalDecoder
    from llm_jax.tokenizers.tool_calls import CallSyntax, call_syntax, describe_tools, renders_tools

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "BPETokenizer",
    "CallSyntax",
    "CharacterTokenizer",
    "ChatTemplate",
    "HFTokenizer",
    "IncrementalDecoder",
    "Span",
    "Tokenizer",
    "TokenizerFiles",
    "answer_bounds",
    "call_syntax",
    "chat_template_source",
    "describe_tools",
    "encode_answers",
    "find_answers",
    "fingerprint",
    "load_tokenizer",
    "render_chat",
    "renders_tools",
]

_MODULES = {
    "DEFAULT_CHAT_TEMPLATE": "chat",
    "BPETokenizer": "bpe",
    "CallSyntax": "tool_calls",
    "CharacterTokenizer": "character",
    "ChatTemplate": "base",
    "HFTokenizer": "huggingface",
    "IncrementalDecoder": "stream",
    "Span": "answers",
    "Tokenizer": "base",
    "TokenizerFiles": "files",
    "load_tokenizer": "load",
    "answer_bounds": "chat",
    "chat_template_source": "chat",
    "call_syntax": "tool_calls",
    "describe_tools": "tool_calls",
    "encode_answers": "answers",
    "find_answers": "answers",
    "fingerprint": "identity",
    "renders_tools": "tool_calls",
    "render_chat": "chat",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
