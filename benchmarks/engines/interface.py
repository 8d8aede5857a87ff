"""What is compared: something that has a model's weights and runs prompts and decode steps with them."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from benchmarks.weights import Weights
from llm_jax.inference import Engine
from llm_jax.kernels import WeightDtype

THREADS = 2  # of the peers; XLA takes every core there is


class Absent(Exception):
    """The contender cannot take part, at all or in a cell; the message says why and, where it can, what would help."""


class Decoding(NamedTuple):
    """tokens/s summed over the batch, and each row's tokens: the one that ends the prompt's pass, then the timed."""

    rate: float
    rows: list[list[int]]


class Contender(Protocol):
    """Greedy everywhere; a first call of each kind warms up."""

    name: ClassVar[str]
    note: str  # what a reader must know about its figures; often nothing

    def __init__(self, weights: Weights, dtype: WeightDtype, *, max_batch: int, max_len: int) -> None:
        """Raises Absent."""
        ...

    def prefill(self, tokens: int) -> float:
        """Seconds from a prompt to the token that follows it."""
        ...

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        """Continues `batch` prompts of `context` tokens; only the steps are timed."""
        ...


def room(context: int, steps: int, batch: int) -> int:
    """Tokens that a row must hold: while the engine reads the end of one row's prompt, in chunks, the others go on."""
    return context + steps + Engine.prefix_block // Engine.min_prefill * batch + 16


def prompts(batch: int, context: int, vocab_size: int) -> list[list[int]]:
    """Prompts that differ in their last token alone, so that what is not timed can be computed once for all."""
    random = np.random.default_rng(0)
    beginning = random.integers(vocab_size, size=context - 1).tolist()
    return [[*beginning, int(end)] for end in random.permutation(vocab_size)[:batch]]
