"""The interface of a benchmarked engine: it loads a model's weights, and times prefill and decode with them."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from benchmarks.weights import Weights
from llm_jax.inference import Engine
from llm_jax.model import ModelDtype

THREADS = 2  # of the other engines; XLA uses every core


class Unavailable(Exception):
    """An engine cannot run, at all or in one cell; the message says why and, where it can, what would help."""


class Decoding(NamedTuple):
    """tokens/s summed over the batch, and the tokens of each sequence: the prefill's, then the timed ones."""

    rate: float
    tokens: list[list[int]]


class BenchmarkEngine(Protocol):
    """An engine that decodes greedily; the first call of each method with its arguments warms up."""

    name: ClassVar[str]
    note: str  # what a reader must know about its figures; often nothing

    def __init__(self, weights: Weights, dtype: ModelDtype, *, max_batch: int, max_len: int) -> None:
        """Raises Unavailable."""
        ...

    def prefill(self, tokens: int) -> float:
        """Seconds from a prompt to the token that follows it."""
        ...

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        """Continues `batch` prompts of `context` tokens; only the steps are timed."""
        ...


def cache_capacity(context: int, steps: int, batch: int) -> int:
    """Tokens of KV cache that a slot needs: the others decode on while the end of one prompt is computed in chunks."""
    return context + steps + Engine.block_tokens // Engine.min_prefill * batch + 16


def prompts(batch: int, context: int, vocab_size: int) -> list[list[int]]:
    """Prompts that differ in their last token only, so that their prefix, which is not timed, is computed once."""
    random = np.random.default_rng(0)
    beginning = random.integers(vocab_size, size=context - 1).tolist()
    return [[*beginning, int(end)] for end in random.permutation(vocab_size)[:batch]]
