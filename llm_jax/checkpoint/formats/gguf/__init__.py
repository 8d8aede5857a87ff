"""GGUF, the format of llama.cpp: a whole model with its tokenizer. The gguf library reads and writes it."""

from llm_jax.checkpoint.formats.gguf.file import read_gguf, write_gguf

__all__ = ["read_gguf", "write_gguf"]
