"""The largest number of each row: what greedy decoding takes from the logits."""

import jax
from jax import Array

from llm_jax.kernels import cpu, xla
from llm_jax.kernels.cpu import best_level
from llm_jax.native import Level


def first_argmax(x_BV: Array) -> tuple[Array, Array]:
    """The least index of each row's largest number, int32 [B], and that number.

    Where a row holds a NaN the number is infinite, and the index arbitrary. Natively in one pass, on all cores; XLA
    does not divide a native call among devices.
    """
    level = best_level()
    if jax.device_count() == 1 and level != Level.XLA:
        return cpu.first_argmax(x_BV, level)
    return xla.first_argmax(x_BV)
