"""The key/value cache: what attention has seen, kept between calls."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

from llm_jax.config import ModelConfig
from llm_jax.kernels import (
    Level,
    from_rows,
    put_block,
    ring_capacity,
    row_width,
    slots,
    take_block,
    to_rows,
    use_huge_pages,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer for a number of slots, and how many tokens each slot has cached.

    Build one with `init_cache` (inside or outside jit) or `allocate_cache`; read and change it through its methods.

    Attributes:
        keys, values: L arrays [B, K, S, H], of int8 with the vector's scale behind (llm_jax/kernels/cached.py). A list,
            not one stacked array, so that XLA updates each in place. S is smaller where a layer's window needs less.
        length_B: int32, tokens cached in each slot; the next one is written at that index.
        level: static, which kernels read and write it.
        sharding: static, how keys and values lie on a mesh of several devices; None on one device.
    """

    keys: list[Array]
    values: list[Array]
    length_B: Array
    level: Level = field(default=Level.XLA, metadata={"static": True})
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})

    @property
    def slots(self) -> int:
        """How many sequences there is memory for."""
        return len(self.length_B)

    @property
    def capacity(self) -> int:
        """How many tokens a slot holds."""
        return max(keys.shape[2] for keys in self.keys)

    def move_slot(self, source: Array, target: Array) -> "KVCache":
        """Everything of slot `source` copied over slot `target`. Donate the cache, and it is changed in place."""

        def move(x_BKSH: Array) -> Array:
            return self._put(x_BKSH, self._take(x_BKSH, x_BKSH.shape[2], source, zero), target, zero)

        zero = jnp.int32(0)
        return self.updated([*map(move, self.keys)], [*map(move, self.values)])

    def copy_block(
        self, source: "KVCache", length: int, *, source_slot: Array, source_start: Array, slot: Array, start: Array
    ) -> "KVCache":
        """`length` tokens of a slot of `source`, from `source_start` on, copied into a slot of this cache at `start`.

        Positions count from the sequence's first token; a layer with a window keeps them modulo its capacity. Donate
        this cache to the jitted caller, and it is changed in place.
        """

        def copy(x_BKSH: Array, source_BKSH: Array) -> Array:
            block = self._take(source_BKSH, length, source_slot, source_start % source_BKSH.shape[2])
            return self._put(x_BKSH, block, slot, start % x_BKSH.shape[2])

        return self.updated(
            [copy(x, other) for x, other in zip(self.keys, source.keys, strict=True)],
            [copy(x, other) for x, other in zip(self.values, source.values, strict=True)],
        )

    def updated(self, keys: list[Array], values: list[Array], length_B: Array | None = None) -> "KVCache":
        """The cache with other keys and values, which stay on the devices where they were: a donated cache is updated
        in place.
        """
        if self.sharding is not None:
            keys, values = jax.lax.with_sharding_constraint((keys, values), self.sharding)
        return replace(self, keys=keys, values=values, length_B=self.length_B if length_B is None else length_B)

    def use_huge_pages(self) -> None:
        """Backs the memory with 2 MB pages where the system can: reads are about a tenth faster."""
        for array in (*self.keys, *self.values):
            use_huge_pages(array)

    def _put(self, x_BKSH: Array, block_1KTH: Array, slot: Array, start: Array) -> Array:
        return put_block(x_BKSH, block_1KTH, slot, start, native=self.level != Level.XLA)

    def _take(self, x_BKSH: Array, length: int, slot: Array, start: Array) -> Array:
        return take_block(x_BKSH, length, slot, start, native=self.level != Level.XLA)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ChunkLayout:
    """The rows of a cache that new tokens [B, T] belong to, R of them.

    Attributes:
        cached_R: int32, the tokens that each row holds before the new ones.
        new_R: int32, how many of its new tokens count, from the first: the hidden states of the others mean nothing.
        starts: int32 [R + 1], where B is 1 and the tokens are those of all rows in turn: row r's are starts[r] …
            starts[r + 1] - 1. None where each of R = B rows has T.
        first_slot: int32, the cache's slot that belongs to the first of the R; None is row 0.
    """

    cached_R: Array
    new_R: Array
    starts: Array | None = None
    first_slot: Array | None = None

    def sequences(self, shape: tuple[int, ...]) -> Array:
        """Each token's row, counted from `first_slot`: int32 [B, T]."""
        B, T = shape
        if self.starts is None:
            return jnp.broadcast_to(jnp.arange(B, dtype=jnp.int32)[:, None], (B, T))
        return (jnp.arange(T)[:, None] >= self.starts[1:-1]).sum(1, dtype=jnp.int32)[None]

    def positions(self, shape: tuple[int, ...]) -> Array:
        """Each token's position in its row: int32 [B, T]."""
        row_BT = self.sequences(shape)
        offset_BT = jnp.arange(shape[1], dtype=jnp.int32) - (0 if self.starts is None else self.starts[row_BT])
        return self.cached_R[row_BT] + offset_BT


def init_cache(
    config: ModelConfig,
    batch: int,
    max_len: int,
    dtype: jnp.dtype | str = jnp.float32,
    *,
    chunk: int | None = None,
    level: Level = Level.XLA,
    sharding: NamedSharding | None = None,
) -> KVCache:
    """An empty cache for `batch` sequences of at most `max_len` tokens, in float32, bfloat16 or int8.

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
        level=level,
        sharding=sharding,
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
