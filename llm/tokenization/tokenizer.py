"""Subword tokenizers and the protocol that all of them follow, under their documented path."""

from llm_jax.tokenizers import BPETokenizer, HFTokenizer
from llm_jax.tokenizers import Tokenizer as BaseTokenizer

__all__ = ["BPETokenizer", "BaseTokenizer", "HFTokenizer"]
