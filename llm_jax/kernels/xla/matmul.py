"""Products with packed weights in plain JAX."""

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.packed import PackedMatrix
from llm_jax.kernels.xla.functions import ACTIVATIONS, Norm, normalise


def matmul(
    x_MI: Array,
    packed: PackedMatrix,
    bias: Array | None,
    norm: Norm | None,
    activation: str,
    residual_MO: Array | None,
    out_dtype: jnp.dtype,
) -> Array:
    """See `llm_jax.kernels.matmul`."""
    x_MI = x_MI.astype(jnp.float32)
    if norm is not None:
        x_MI = normalise(x_MI, norm)
    M = x_MI.shape[0]
    if M == 1 and packed.dtype != "float32":
        x_MI = jnp.concatenate([x_MI, x_MI])  # XLA's dots of one row run at a twentieth of the speed of two
    if packed.dtype == "float32":
        y_MO = x_MI @ packed.tiles
    elif packed.dtype == "bfloat16":
        y_MO = _contract(x_MI.astype(jnp.bfloat16), packed.tiles, jnp.float32)
    else:
        assert packed.scale is not None
        product = jax.lax.platform_dependent(x_MI, packed.tiles, cpu=_times_int8, default=_times_widened)
        y_MO = product * packed.scale
    y_MO = y_MO[:M]
    if bias is not None:
        y_MO = y_MO + bias.astype(jnp.float32).reshape(-1)
    if packed.gated:
        first, second = jnp.split(y_MO, 2, axis=-1)
        y_MO = ACTIVATIONS[activation](first) * second
    else:
        y_MO = ACTIVATIONS[activation](y_MO)
    if residual_MO is not None:
        y_MO = y_MO + residual_MO.astype(jnp.float32)
    return y_MO.astype(out_dtype)


def _times_int8(x_MI: Array, weight_OI: Array) -> Array:
    """The product with each row of x in 255 levels: what a CPU multiplies fastest."""
    largest_M1 = jnp.abs(x_MI).max(-1, keepdims=True)
    inverse_M1 = jnp.where(largest_M1 > 0, 127 / largest_M1, 0)
    sums_MO = _contract(jnp.round(x_MI * inverse_M1).astype(jnp.int8), weight_OI, jnp.int32)
    return sums_MO.astype(jnp.float32) * (largest_M1 / 127)


def _times_widened(x_MI: Array, weight_OI: Array) -> Array:
    """The product with x in bfloat16, which represents every int8: a GPU can widen weights as it reads them."""
    return _contract(x_MI.astype(jnp.bfloat16), weight_OI.astype(jnp.bfloat16), jnp.float32)


def _contract(x_MI: Array, weight_OI: Array, sums: type) -> Array:
    return jax.lax.dot_general(x_MI, weight_OI, (((1,), (1,)), ((), ())), preferred_element_type=sums)
