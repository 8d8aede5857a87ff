"""The key/value cache: what attention has seen, stored between calls.

Its layout is known here and in `llm_jax.kernels` alone; everything else uses the methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

from llm_jax.config import ModelConfig
from llm_jax.kernels import (
    AttentionSettings,
    ChunkLayout,
    Level,
    cached_attention,
    read_block,
    ring_capacity,
    use_huge_pages,
    vector_width,
    write_block,
)


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values [B, K, S, H], as attention appends to them and reads them."""

    keys: Array
    values: Array
    level: Level

    def append_and_attend(
        self,
        qkv_BTJH: Array,
        layout: ChunkLayout,
        settings: AttentionSettings,
        *,
        rotary: tuple[Array, Array] | None,
        allowed: Array | None,
        context: int | None,
    ) -> tuple[Array, "LayerCache"]:
        """What each new token sees, [B, T, N, H], and the cache grown by them: see `kernels.cached_attention`."""
        heads_BTNH, keys, values = cached_attention(
            qkv_BTJH,
            self.keys,
            self.values,
            layout,
            settings,
            rotary=rotary,
            allowed=allowed,
            context=context,
            level=self.level,
        )
        return heads_BTNH, replace(self, keys=keys, values=values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer for a number of slots, and how many tokens each slot has cached.

    Build one with `init_cache` (inside or outside jit) or `allocate_cache`; read and change it through its methods.

    Attributes:
        keys, values: L arrays [B, K, S, H], encoded as llm_jax/kernels/cache_format.py says. A list, not one stacked
            array, so that XLA updates each in place. S is smaller where a layer's window needs less.
        length_B: int32, tokens cached in each slot; the next one is written at that index.
        level: static, which kernels read and write it.
        sharding: static, of keys and values on a mesh of several devices; None on one device.
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
            return self._write(x_BKSH, self._read(x_BKSH, x_BKSH.shape[2], source, zero), target, zero)

        zero = jnp.int32(0)
        return self._updated([*map(move, self.keys)], [*map(move, self.values)])

    def copy_block(
        self, source: "KVCache", length: int, *, source_slot: Array, source_start: Array, slot: Array, start: Array
    ) -> "KVCache":
        """`length` tokens of a slot of `source`, from `source_start` on, copied into a slot of this cache at `start`.

        Positions count from the sequence's first token; a layer with a window stores them modulo its capacity. Donate
        this cache to the jitted caller, and it is changed in place.
        """

        def copy(x_BKSH: Array, source_BKSH: Array) -> Array:
            block = self._read(source_BKSH, length, source_slot, source_start % source_BKSH.shape[2])
            return self._write(x_BKSH, block, slot, start % x_BKSH.shape[2])

        return self._updated(
            [copy(x, other) for x, other in zip(self.keys, source.keys, strict=True)],
            [copy(x, other) for x, other in zip(self.values, source.values, strict=True)],
        )

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self.keys[index], self.values[index], self.level)

    def with_layers(self, layers: Sequence[LayerCache], length_B: Array) -> "KVCache":
        """The cache with these keys and values, and other lengths."""
        return self._updated([layer.keys for layer in layers], [layer.values for layer in layers], length_B)

    def _updated(self, keys: list[Array], values: list[Array], length_B: Array | None = None) -> "KVCache":
        if self.sharding is not None:  # donated memory is reused only under the sharding that it has
            keys, values = jax.lax.with_sharding_constraint((keys, values), self.sharding)
        return replace(self, keys=keys, values=values, length_B=self.length_B if length_B is None else length_B)

    def use_huge_pages(self) -> None:
        """Backs the memory with 2 MB pages where the system can: reads are about a tenth faster."""
        for array in (*self.keys, *self.values):
            use_huge_pages(array)

    def _write(self, x_BKSH: Array, block_1KTH: Array, slot: Array, start: Array) -> Array:
        return write_block(x_BKSH, block_1KTH, slot, start, native=self.level != Level.XLA)

    def _read(self, x_BKSH: Array, length: int, slot: Array, start: Array) -> Array:
        return read_block(x_BKSH, length, slot, start, native=self.level != Level.XLA)


def init_cache(
    config: ModelConfig,
    slots: int,
    max_len: int,
    dtype: jnp.dtype | str = jnp.float32,
    *,
    chunk: int | None = None,
    level: Level = Level.XLA,
    sharding: NamedSharding | None = None,
) -> KVCache:
    """An empty cache for `slots` sequences of at most `max_len` tokens, in float32, bfloat16 or int8.

    Args:
        chunk: the most tokens that a call may add; layers with a window then store no more than they need for that.
        level: the kernels that read and write it. Native ones have no gradient.
    """

    def empty(layer: int) -> Array:
        window = config.window(layer)
        capacity = max_len if window is None or chunk is None else min(max_len, ring_capacity(window, chunk))
        return jnp.zeros((slots, config.kv_heads, capacity, vector_width(config.head_size, dtype)), dtype)

    return KVCache(
        keys=[empty(i) for i in range(config.num_layers)],
        values=[empty(i) for i in range(config.num_layers)],
        length_B=jnp.zeros(slots, jnp.int32),
        level=level,
        sharding=sharding,
    )


def dense_cache(arrays: Sequence[Array], length_B: Array) -> KVCache:
    """A cache over the caller's arrays: k, v, k, v … of all layers, each [B, K, S, H], filled up to `length_B`."""
    return KVCache(keys=list(arrays[0::2]), values=list(arrays[1::2]), length_B=length_B)


def dense_arrays(cache: KVCache) -> list[Array]:
    """What `dense_cache` takes."""
    return [array for pair in zip(cache.keys, cache.values, strict=True) for array in pair]
