"""The engines that are compared: this project's own, llama.cpp and transformers."""

from benchmarks.engines.interface import BenchmarkEngine, Decoding, Unavailable, cache_capacity
from benchmarks.engines.llama_cpp import LlamaCpp
from benchmarks.engines.llm_jax import LlmJax
from benchmarks.engines.subprocess import InSubprocess
from benchmarks.engines.transformers import Transformers

PEERS: dict[str, type[BenchmarkEngine]] = {peer.name: peer for peer in (LlamaCpp, Transformers)}

__all__ = [
    "PEERS",
    "BenchmarkEngine",
    "Decoding",
    "InSubprocess",
    "LlamaCpp",
    "LlmJax",
    "Transformers",
    "Unavailable",
    "cache_capacity",
]
