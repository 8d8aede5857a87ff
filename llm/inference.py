"""Generation, under its documented path."""

from llm_torch_compat import batch_generate, generate, stream_generate

__all__ = ["batch_generate", "generate", "stream_generate"]
