"""The character tokenizer, under its documented path and name."""

from llm_jax.tokenizers import CharacterTokenizer as SimpleCharacterTokenizer

__all__ = ["SimpleCharacterTokenizer"]
