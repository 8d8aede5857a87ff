"""The batching engine: requests in, tokens out. No text, no HTTP."""

from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import (
    AllowedTokens,
    Constraint,
    ContextLengthExceeded,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from llm_jax.inference.engine.stats import EngineStats

__all__ = [
    "AllowedTokens",
    "Constraint",
    "ContextLengthExceeded",
    "Engine",
    "EngineStats",
    "FinishReason",
    "Request",
    "SamplingParams",
    "TokenEvent",
    "TokenLogprob",
]
