"""The key/value cache: what attention has seen, kept between calls."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import from_rows, ring_capacity, row_width, slots, to_rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, one array pair per layer, and how much of each row is live.

    Attributes:
        keys, values: L arrays [B, K, S, H], of int8 with the row's scale behind (llm_jax/kernels/cached.py). A list,
            not one stacked array, so that XLA updates each in place. S differs where layers with a window keep less.
        length_B: int32, the tokens that each row holds; the next one is written at that index.
    """

    keys: list[Array]
    values: list[Array]
    length_B: Array

    @property
    def capacity(self) -> int:
        return max(keys.shape[2] for keys in self.keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The rows of a cache that new tokens [B, T] belong to, R of them.

    Attributes:
        length_R: int32, the tokens that each row holds before the new ones.
        live_R: int32, how many of its new tokens count, from the first: the hidden states of the others mean nothing.
        starts: int32 [R + 1], where B is 1 and the tokens are those of all rows in turn: row r's are starts[r] …
            starts[r + 1] - 1. None where each of R = B rows has T.
        first: int32, the cache's row that belongs to the first of the R; None is row 0.
    """

    length_R: Array
    live_R: Array
    starts: Array | None = None
    first: Array | None = None

    def of_tokens(self, shape: tuple[int, ...]) -> Array:
        """Each token's row, counted from `first`: int32 [B, T]."""
        B, T = shape
        if self.starts is None:
            return jnp.broadcast_to(jnp.arange(B, dtype=jnp.int32)[:, None], (B, T))
        return (jnp.arange(T)[:, None] >= self.starts[1:-1]).sum(1, dtype=jnp.int32)[None]

    def positions(self, shape: tuple[int, ...]) -> Array:
        """Each token's position in its row: int32 [B, T]."""
        row_BT = self.of_tokens(shape)
        offset_BT = jnp.arange(shape[1], dtype=jnp.int32) - (0 if self.starts is None else self.starts[row_BT])
        return self.length_R[row_BT] + offset_BT


def init_cache(
    config: ModelConfig,
    batch: int,
    max_len: int,
    dtype: jnp.dtype | str = jnp.float32,
    *,
    chunk: int | None = None,
) -> KVCache:
    """An empty cache for `batch` rows of at most `max_len` tokens, in float32, bfloat16 or int8.

    With `chunk`, the most tokens that a call may add, layers with a window keep no more than they need for that.
    """

    def empty(layer: int) -> Array:
        window = config.window(layer)
        kept = max_len if window is None or chunk is None else min(max_len, ring_capacity(window, chunk))
        return jnp.zeros((batch, config.kv_heads, kept, row_width(config.head_size, dtype)), dtype)

    return KVCache(
        keys=[empty(i) for i in range(config.num_layers)],
        values=[empty(i) for i in range(config.num_layers)],
        length_B=jnp.zeros(batch, jnp.int32),
    )


def write(
    cache_BKSH: Array,
    new_BTKH: Array,
    positions_BT: Array,
    window: int | None = None,
    first_row: Array | None = None,
) -> Array:
    """Puts new keys or values at their positions; a position beyond the capacity is dropped (padding).

    A cache may have more rows than there are new ones; the others are left as they are.
    """
    rows_B1 = (0 if first_row is None else first_row) + jnp.arange(new_BTKH.shape[0])[:, None]
    slot_BT = slots(positions_BT, cache_BKSH.shape[2], window)
    return cache_BKSH.at[rows_B1, :, slot_BT].set(to_rows(new_BTKH, cache_BKSH.dtype), mode="drop")


def read(cache_BKSH: Array, size: tuple[int, ...], dtype: jnp.dtype, first_row: Array | None = None) -> Array:
    """The keys or values of the first `size` rows and positions."""
    B, S = size
    rows = cache_BKSH if first_row is None else jax.lax.dynamic_slice_in_dim(cache_BKSH, first_row, B)
    return from_rows(rows[:B, :, :S], dtype)
