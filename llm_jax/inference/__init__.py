"""Prompts to tokens: sampling, the batching engine, and text on top of it."""

from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import MAX_LOGPROBS, FinishReason, Request, SamplingParams, TokenEvent
from llm_jax.inference.engine.stats import EngineStats
from llm_jax.inference.text.generate import batch_generate, continue_prompts, generate, stream_generate
from llm_jax.inference.text.stream import ContextLengthExceeded, TextPiece, TextStream, prepare_request

__all__ = [
    "MAX_LOGPROBS",
    "ContextLengthExceeded",
    "Engine",
    "EngineStats",
    "FinishReason",
    "Request",
    "SamplingParams",
    "TextPiece",
    "TextStream",
    "TokenEvent",
    "batch_generate",
    "continue_prompts",
    "generate",
    "prepare_request",
    "stream_generate",
]
