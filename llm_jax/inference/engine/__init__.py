"""The batching engine: requests in, tokens out. No text, no HTTP."""

from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import MAX_LOGPROBS, FinishReason, Request, SamplingParams, TokenEvent
from llm_jax.inference.engine.stats import EngineStats

__all__ = ["MAX_LOGPROBS", "Engine", "EngineStats", "FinishReason", "Request", "SamplingParams", "TokenEvent"]
