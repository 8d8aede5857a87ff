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
        length_B: int32, the tokens that each row holds; the next one is written at that index. Where it is shorter
            than the arrays have rows, only that many rows take part.
        first_row: int32, the first of the rows that take part; None is row 0.
    """

    keys: list[Array]
    values: list[Array]
    length_B: Array
    first_row: Array | None = None

    @property
    def capacity(self) -> int:
        return max(keys.shape[2] for keys in self.keys)


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
