"""What keeps the memory of a step small: few rows at a time, and nothing left over from compiling it."""

import math
from typing import Any

import jax

from llm_jax.memory import return_freed_memory
from llm_jax.model import Params
from llm_jax.training.step import TrainStep

ENOUGH = 256  # tokens from which products run at full speed on a CPU
SMALL = 1 / 8  # of the frozen parameters: trained ones whose gradients cost little to add up


def parts_of(rows: int, tokens: int, trainable: Params, frozen: Params) -> int:
    """How many equal parts of a micro-batch are best computed one after the other, as micro-batches of their own.

    Beside a frozen model gradients are small, so that adding them up costs next to nothing, and on a CPU a few hundred
    tokens keep every core busy: their activations stay in its cache, and take a fraction of the memory.

    Args:
        tokens: of a row.
    """
    if jax.default_backend() != "cpu" or _size(trainable) > SMALL * _size(frozen):
        return 1
    least = min(rows, -(-ENOUGH // tokens))
    return next(rows // part for part in range(least, rows + 1) if rows % part == 0)


def compiled_beforehand(step: Any) -> TrainStep:
    """A jitted step that gives back what compiling took, several times the program, before it first runs."""
    config: Any = jax.config
    ready = False

    def call(*arguments: Any) -> Any:
        nonlocal ready
        if not ready and not config.jax_disable_jit:
            step.lower(*arguments).compile()
            return_freed_memory()
        ready = True
        return step(*arguments)

    return call


def _size(params: Params) -> int:
    return sum(math.prod(value.shape) for value in params.values())
