"""How a key or a value lies in the cache: as floats, or as int8 with its scale behind it.

An int8 row is symmetric, with one scale per token and head: H levels, then the scale's four bytes. One array holds
both, so that whatever moves rows need not know what is in them.
"""

import jax
import jax.numpy as jnp
from jax import Array

SCALE_BYTES = 4


def row_width(head_size: int, dtype: jnp.dtype | str) -> int:
    """Elements of a cached row."""
    return head_size + (SCALE_BYTES if jnp.dtype(dtype) == jnp.int8 else 0)


def to_rows(x: Array, dtype: jnp.dtype) -> Array:
    """Vectors [..., H] as the cache keeps them."""
    if dtype != jnp.int8:
        return x.astype(dtype)
    x = x.astype(jnp.float32)
    top = jnp.abs(x).max(-1, keepdims=True)
    levels = jnp.round(x * jnp.where(top > 0, 127 / top, 0)).astype(jnp.int8)
    return jnp.concatenate([levels, jax.lax.bitcast_convert_type(top / 127, jnp.int8)[..., 0, :]], axis=-1)


def from_rows(rows: Array, dtype: jnp.dtype) -> Array:
    """The vectors [..., H] that cached rows stand for."""
    if rows.dtype != jnp.int8:
        return rows.astype(dtype)
    levels, scale = rows[..., :-SCALE_BYTES], jax.lax.bitcast_convert_type(rows[..., -SCALE_BYTES:], jnp.float32)
    return (levels.astype(jnp.float32) * scale[..., None]).astype(dtype)
