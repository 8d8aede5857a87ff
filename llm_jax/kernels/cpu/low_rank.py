"""Low-rank factors of several adapters beside a matrix, by the native kernels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cpu.native import LOW_RANK, load, placeholder
from llm_jax.kernels.xla.functions import Norm
from llm_jax.native import Level


def low_rank(
    x_MI: Array,
    slot_M: Array,
    a_sQI: Array,
    b_sQO: Array,
    norm: Norm | None,
    residual_MO: Array | None,
    level: Level,
) -> Array:
    """See `llm_jax.kernels.low_rank`."""
    load()
    call = jax.ffi.ffi_call(LOW_RANK, jax.ShapeDtypeStruct((x_MI.shape[0], b_sQO.shape[2]), x_MI.dtype))
    y_MO: Array = call(
        x_MI,
        slot_M.astype(jnp.int32),
        a_sQI,
        b_sQO,
        placeholder() if norm is None else norm.weight.astype(jnp.float32),
        placeholder() if norm is None or norm.bias is None else norm.bias.astype(jnp.float32),
        placeholder() if residual_MO is None else residual_MO,
        level=np.int64(level),
        norm=np.int64(0 if norm is None else 2 if norm.centred else 1),
        epsilon=np.float32(0.0 if norm is None else norm.epsilon),
    )
    return y_MO
