"""How a key or a value is stored in the cache, and at which index.

As floats, or as int8 with a symmetric scale for each token and head: H levels, then the scale's four bytes. One array
has both, so that copies need not know what they copy.

A layer with a window needs to store only that and the tokens that a call adds. Its cache is then a ring, position p at
p modulo its capacity: whole chunks of the native kernel, so that each is contiguous.
"""

import jax
import jax.numpy as jnp
from jax import Array

SCALE_BYTES = 4  # a float32
CHUNK = 64  # keys that the native kernel reads at a time, as in cpu/src/cache.h
UNREACHABLE = 1 << 30  # a position that no query reaches


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


def ring_capacity(window: int, new: int) -> int:
    """Positions to store for a window when calls add up to `new` tokens: these, and any chunk that they complete."""
    return -(-(window + new) // CHUNK) * CHUNK + CHUNK


def write_index(position_BT: Array, capacity: int, window: int | None) -> Array:
    """Where new positions are stored; at the capacity or beyond it means nowhere."""
    return position_BT % capacity if _is_ring(capacity, window, position_BT.shape[1]) else position_BT


def cached_positions(position_BT: Array, capacity: int, window: int | None, context: int) -> Array:
    """The positions at the first `context` indices once these new ones are written, [B, S]."""
    index_1S = jnp.arange(min(context, capacity), dtype=jnp.int32)[None]
    if not _is_ring(capacity, window, position_BT.shape[1]):
        return jnp.broadcast_to(index_1S, (position_BT.shape[0], index_1S.shape[1]))
    last_B1 = position_BT.max(axis=1, keepdims=True)
    position_BS = last_B1 - (last_B1 - index_1S) % capacity
    return jnp.where(position_BS < 0, UNREACHABLE, position_BS)


def _is_ring(capacity: int, window: int | None, new: int) -> bool:
    """Whether positions wrap around. What `new` tokens overwrite, none of them and none behind them sees."""
    return window is not None and capacity % CHUNK == 0 and capacity >= window + new - 1
