"""Text to ids and back: characters, byte-level BPE, Hugging Face; chat templates; decoding as ids arrive."""

from llm_jax.tokenizers.base import Tokenizer
from llm_jax.tokenizers.bpe import BPETokenizer
from llm_jax.tokenizers.character import CharacterTokenizer
from llm_jax.tokenizers.chat import DEFAULT_CHAT_TEMPLATE, render_chat
from llm_jax.tokenizers.huggingface import HFTokenizer
from llm_jax.tokenizers.load import load_tokenizer
from llm_jax.tokenizers.stream import IncrementalDecoder

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "BPETokenizer",
    "CharacterTokenizer",
    "HFTokenizer",
    "IncrementalDecoder",
    "Tokenizer",
    "load_tokenizer",
    "render_chat",
]
