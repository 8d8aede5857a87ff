"""How a key or a value is stored in the cache: as floats, or as int8 with a symmetric scale for each token and head.

The latter are H levels, then the scale's four bytes. One array has both, so that copies need not know what they copy.
"""

import jax
import jax.numpy as jnp
from jax import Array

SCALE_BYTES = 4  # a float32


def vector_width(head_size: int, dtype: jnp.dtype | str) -> int:
    """Elements of a cached key or value."""
    return head_size + (SCALE_BYTES if jnp.dtype(dtype) == jnp.int8 else 0)


def encode(x: Array, dtype: jnp.dtype) -> Array:
    """Keys or values [..., H] as the cache stores them."""
    if dtype != jnp.int8:
        return x.astype(dtype)
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(-1, keepdims=True)
    levels = jnp.round(x * jnp.where(largest > 0, 127 / largest, 0)).astype(jnp.int8)
    return jnp.concatenate([levels, jax.lax.bitcast_convert_type(largest / 127, jnp.int8)[..., 0, :]], axis=-1)


def decode(cached: Array, dtype: jnp.dtype) -> Array:
    """The keys or values [..., H] that cached vectors encode."""
    if cached.dtype != jnp.int8:
        return cached.astype(dtype)
    levels, scale = cached[..., :-SCALE_BYTES], jax.lax.bitcast_convert_type(cached[..., -SCALE_BYTES:], jnp.float32)
    return (levels.astype(jnp.float32) * scale[..., None]).astype(dtype)
