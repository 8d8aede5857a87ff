"""Text in, text out, on top of the engine."""

from llm_jax.inference.text.chat import Conversation
from llm_jax.inference.text.generate import batch_generate, continue_prompts, generate, stream_generate
from llm_jax.inference.text.stream import TextPiece, TextStream, prepare_request

__all__ = [
    "Conversation",
    "TextPiece",
    "TextStream",
    "batch_generate",
    "continue_prompts",
    "generate",
    "prepare_request",
    "stream_generate",
]
