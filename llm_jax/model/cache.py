"""The key/value cache: what attention has seen, kept between calls."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, one array pair per layer, and how much of each row is live.

    Attributes:
        keys, values: L arrays [B, K, S, H]. A list, not one stacked array, so that XLA updates each in place.
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
        return self.keys[0].shape[2]


def init_cache(config: ModelConfig, batch: int, max_len: int, dtype: jnp.dtype | str = jnp.float32) -> KVCache:
    """An empty cache for `batch` rows of at most `max_len` tokens."""
    shape = (batch, config.kv_heads, max_len, config.head_size)
    return KVCache(
        keys=[jnp.zeros(shape, dtype) for _ in range(config.num_layers)],
        values=[jnp.zeros(shape, dtype) for _ in range(config.num_layers)],
        length_B=jnp.zeros(batch, jnp.int32),
    )


def write(cache_BKSH: Array, new_BTKH: Array, positions_BT: Array, first_row: Array | None = None) -> Array:
    """Puts new keys or values at their positions; a position beyond the capacity is dropped (padding).

    A cache may have more rows than there are new ones; the others are left as they are.
    """
    rows_B1 = (0 if first_row is None else first_row) + jnp.arange(new_BTKH.shape[0])[:, None]
    return cache_BKSH.at[rows_B1, :, positions_BT].set(new_BTKH.astype(cache_BKSH.dtype), mode="drop")


def read(cache_BKSH: Array, size: tuple[int, ...], first_row: Array | None = None) -> Array:
    """The first `size` rows and positions."""
    B, S = size
    rows = cache_BKSH if first_row is None else jax.lax.dynamic_slice_in_dim(cache_BKSH, first_row, B)
    return rows[:B, :, :S]
