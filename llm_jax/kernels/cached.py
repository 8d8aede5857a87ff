"""How a key or a value lies in the cache, and where: as floats, or as int8 with its scale behind it.

An int8 row is symmetric, with one scale per token and head: H levels, then the scale's four bytes. One array holds
both, so that whatever moves rows need not know what is in them.

A layer with a window needs to keep only that and the tokens that a call adds. Its cache is then a ring, position p at
p modulo its capacity: whole chunks of the native kernel, so that each lies in one piece.
"""

import jax
import jax.numpy as jnp
from jax import Array

SCALE_BYTES = 4
CHUNK = 64  # keys, as in src/cache.h
NEVER = 1 << 30  # a position that no query reaches


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


def ring_capacity(window: int, new: int) -> int:
    """Positions to keep for a window when calls add up to `new` tokens: these, and any chunk that they complete."""
    return -(-(window + new) // CHUNK) * CHUNK + CHUNK


def ring(capacity: int, window: int | None, new: int) -> bool:
    """Whether positions wrap around. What `new` tokens overwrite, none of them and none behind them sees."""
    return window is not None and capacity % CHUNK == 0 and capacity >= window + new - 1


def slots(position_BT: Array, capacity: int, window: int | None) -> Array:
    """Where new positions are kept; at the capacity or beyond it means nowhere."""
    return position_BT % capacity if ring(capacity, window, position_BT.shape[1]) else position_BT


def held_positions(position_BT: Array, capacity: int, window: int | None, context: int) -> Array:
    """What the first `context` slots hold once these new positions are written, [B, S]."""
    slot_1S = jnp.arange(min(context, capacity), dtype=jnp.int32)[None]
    if not ring(capacity, window, position_BT.shape[1]):
        return jnp.broadcast_to(slot_1S, (position_BT.shape[0], slot_1S.shape[1]))
    last_B1 = position_BT.max(axis=1, keepdims=True)
    held_BS = last_B1 - (last_B1 - slot_1S) % capacity
    return jnp.where(held_BS < 0, NEVER, held_BS)
