"""GGUF, the file of llama.cpp: a whole model with its tokenizer. The gguf library reads and writes the format."""

from llm_jax.checkpoint.gguf.file import is_gguf, read_gguf, write_gguf

__all__ = ["is_gguf", "read_gguf", "write_gguf"]
