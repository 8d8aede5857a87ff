"""The decoder, under its documented path."""

from llm_torch_compat import DecoderModel

__all__ = ["DecoderModel"]
