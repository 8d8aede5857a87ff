"""Prompts to tokens: sampling, the batching engine, and text on top of it."""

from llm_jax.inference.constraints import Grammars
from llm_jax.inference.engine import (
    AllowedTokens,
    Constraint,
    ContextLengthExceeded,
    Engine,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from llm_jax.inference.text import (
    Conversation,
    TextPiece,
    TextStream,
    batch_generate,
    continue_prompts,
    generate,
    prepare_request,
    stream_generate,
)

__all__ = [
    "AllowedTokens",
    "Constraint",
    "ContextLengthExceeded",
    "Conversation",
    "Engine",
    "EngineStats",
    "FinishReason",
    "Grammars",
    "Request",
    "SamplingParams",
    "TextPiece",
    "TextStream",
    "TokenEvent",
    "TokenLogprob",
    "batch_generate",
    "continue_prompts",
    "generate",
    "prepare_request",
    "stream_generate",
]
