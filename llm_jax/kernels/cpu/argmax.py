"""The largest number of each row, by the native kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cpu.native import ARGMAX, load
from llm_jax.native import Level


def first_argmax(x_BV: Array, level: Level) -> tuple[Array, Array]:
    """See `llm_jax.kernels.first_argmax`."""
    load()
    B = x_BV.shape[0]
    call = jax.ffi.ffi_call(ARGMAX, (jax.ShapeDtypeStruct((B,), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.float32)))
    index_B, value_B = call(x_BV, level=np.int64(level))
    return index_B, value_B
