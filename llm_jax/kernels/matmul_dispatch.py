"""y = act(norm(x) · Wᵀ + bias) + residual, on the backend that the weights are packed for."""

import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu, xla
from llm_jax.kernels.packed import PackedMatrix
from llm_jax.kernels.xla import ActivationName, Norm
from llm_jax.native import Level


def matmul(
    x: Array,
    packed: PackedMatrix,
    bias: Array | None = None,
    *,
    norm: Norm | None = None,
    activation: ActivationName = "none",
    residual: Array | None = None,
    out_dtype: jnp.dtype | str | None = None,
) -> Array:
    """act(norm(x) · Wᵀ + bias) + residual, over the last axis; sums are float32 (of int8 × int8: exact, in int32).

    A bfloat16 matrix rounds norm(x) to bfloat16, an int8 one to 255 levels per row on a CPU and to bfloat16 elsewhere.
    A row of native results does not depend, to the last bit, on the rows beside it or on their number; XLA promises
    nothing like it.

    Args:
        x: float32 or bfloat16 [..., I].
        bias: [O]; for a gated matrix the pair's biases [2, O].
        residual: [..., O], added last.
        out_dtype: float32 or bfloat16; x's own unless given.
    """
    O, I = packed.shape
    lead, out_dtype = x.shape[:-1], jnp.dtype(out_dtype or x.dtype)
    residual_MO = None if residual is None else residual.reshape(-1, O)
    backend = xla.matmul if packed.level == Level.XLA else cpu.matmul
    return backend(x.reshape(-1, I), packed, bias, norm, activation, residual_MO, out_dtype).reshape(*lead, O)
