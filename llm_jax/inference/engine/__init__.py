"""The batching engine: requests in, tokens out. No text, no HTTP."""

from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import (
    ContextLengthExceeded,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
)
from llm_jax.inference.engine.stats import EngineStats

__all__ = [
    "ContextLengthExceeded",
    "Engine",
    "EngineStats",
    "FinishReason",
    "Request",
    "SamplingParams",
    "TokenEvent",
]
