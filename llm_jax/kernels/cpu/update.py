"""What a step of training does with all gradients at once, by the native kernels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cpu.native import ADAMW, NORM, best_level, load


def norm(arrays: Sequence[Array]) -> Array:
    """See `llm_jax.kernels.norm`."""
    load()
    call = jax.ffi.ffi_call(NORM, jax.ShapeDtypeStruct((), jnp.float32))
    total: Array = call(*arrays, level=np.int64(best_level()))
    return total


def adamw(
    parameters: Sequence[Array],
    means: Sequence[Array],
    squares: Sequence[Array],
    gradients: Sequence[Array],
    *,
    numbers: Array,
    betas: tuple[float, float],
    epsilon: float,
    decay: Sequence[float],
) -> list[Array]:
    """The first three in turn after a step, in place.

    Args:
        numbers: float32 [5]: learning rate, what gradients are multiplied by, what both moments are, and 0 where
            nothing is to change.
    """
    load()
    changed = [*parameters, *means, *squares]
    call = jax.ffi.ffi_call(
        ADAMW,
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in changed],
        input_output_aliases={1 + i: i for i in range(len(changed))},
    )
    return list(
        call(
            numbers,
            *changed,
            *gradients,
            level=np.int64(best_level()),
            beta1=np.float32(betas[0]),
            beta2=np.float32(betas[1]),
            epsilon=np.float32(epsilon),
            decay=np.asarray(decay, np.float32),
        )
    )
