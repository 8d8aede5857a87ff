"""The key/value cache: what attention has seen, stored between calls.

Its layout is known here and in `llm_jax.kernels` alone; everything else uses the methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from llm_jax.config import ModelConfig
from llm_jax.kernels import AttentionSettings, ChunkLayout, Level, cached_attention, empty, vector_width


class LayerPlace(NamedTuple):
    """Where a layer's keys and values are: in which arrays, and behind how many blocks of other layers.

    Attributes:
        array: an index into the cache's arrays.
        first: the layer's block 0.
        group: its group of layers, which says which blocks its sequences have.
    """

    array: int
    first: int
    group: int


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values, in arrays [Z, K, X, H], as attention appends to them and reads them."""

    keys: Array
    values: Array
    place: LayerPlace
    level: Level

    def append_and_attend(
        self,
        qkv_BTJH: Array,
        layout: ChunkLayout,
        settings: AttentionSettings,
        *,
        rotary: tuple[Array, Array] | None,
        sinks_N: Array | None,
        allowed: Array | None,
    ) -> tuple[Array, "LayerCache"]:
        """What each new token sees, [B, T, N, H], and the cache grown by them: see `kernels.cached_attention`."""
        heads_BTNH, keys, values = cached_attention(
            qkv_BTJH,
            self.keys,
            self.values,
            layout.blocks[self.place.group],
            layout,
            settings,
            first_block=self.place.first,
            rotary=rotary,
            sinks_N=sinks_N,
            allowed=allowed,
            level=self.level,
        )
        return heads_BTNH, replace(self, keys=keys, values=values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Blocks of keys and values of every layer. Which sequence has which blocks, and how much of them, a `ChunkLayout`
    says (PagedAttention, arXiv:2309.06180).

    A block of a sequence's tokens has the same number in all layers of a group: those with the same window. Groups
    differ in which tokens they still need (`layer_windows`).

    Build one with `init_cache`, inside or outside jit; donate it to each step, and it is changed in place.

    Attributes:
        keys, values: arrays [Z, K, X, H], encoded as llm_jax/kernels/cache_format.py says. A group's layers share one,
            each with its own range of blocks: what a call of a program costs grows with the arrays that it is given.
        places: static, of each layer.
        level: static, which kernels read and write it.
        sharding: static, of keys and values on a mesh of several devices; None on one device.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    places: tuple[LayerPlace, ...] = field(metadata={"static": True})
    level: Level = field(default=Level.XLA, metadata={"static": True})
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})

    def layer(self, index: int) -> LayerCache:
        place = self.places[index]
        return LayerCache(self.keys[place.array], self.values[place.array], place, self.level)

    def with_layer(self, layer: LayerCache) -> "KVCache":
        """The cache with a layer's new keys and values. The next layer must be taken from it: they share arrays."""
        new = layer.keys, layer.values
        if self.sharding is not None:  # donated memory is reused only under the sharding that it has
            new = jax.lax.with_sharding_constraint(new, self.sharding)
        number = layer.place.array
        keys, values = (
            (*arrays[:number], array, *arrays[number + 1 :])
            for arrays, array in zip((self.keys, self.values), new, strict=True)
        )
        return replace(self, keys=keys, values=values)


def layer_windows(config: ModelConfig) -> tuple[int | None, ...]:
    """The window of each group of layers, None where they see everything."""
    return tuple(dict.fromkeys(config.window(i) for i in range(config.num_layers)))


def init_cache(
    config: ModelConfig,
    blocks: int | Sequence[int],
    block_tokens: int,
    dtype: jnp.dtype | str = jnp.float32,
    *,
    level: Level = Level.XLA,
    sharding: NamedSharding | None = None,
) -> KVCache:
    """An empty cache in float32, bfloat16 or int8.

    Args:
        blocks: how many; for each group, or as many for all.
        block_tokens: tokens of a block. Native kernels take a multiple of 64, or a block for each sequence.
        level: the kernels that read and write it. Native ones have no gradient.
    """
    windows = layer_windows(config)
    counts = [blocks] * len(windows) if isinstance(blocks, int) else blocks
    width = vector_width(config.head_size, dtype)
    totals, places = [0] * len(windows), []
    for i in range(config.num_layers):
        group = windows.index(config.window(i))
        places.append(LayerPlace(group, totals[group], group))
        totals[group] += counts[group]

    def arrays() -> tuple[Array, ...]:
        return tuple(empty((total, config.kv_heads, block_tokens, width), dtype, level) for total in totals)

    return KVCache(keys=arrays(), values=arrays(), places=tuple(places), level=level, sharding=sharding)


def dense_layout(cache: KVCache, cached_B: Array, tokens: int) -> ChunkLayout:
    """The next `tokens` tokens of B sequences, each of which has the block of its number, as long as its context."""
    B = len(cached_B)
    blocks = jnp.arange(B, dtype=jnp.int32)[:, None]
    groups = 1 + max(place.group for place in cache.places)
    return ChunkLayout(cached_B, jnp.full(B, tokens, jnp.int32), (blocks,) * groups)


def dense_cache(arrays: Sequence[Array]) -> KVCache:
    """A cache over the caller's arrays: k, v, k, v … of all layers, each [B, K, S, H]. See `dense_layout`."""
    places = tuple(LayerPlace(array=i, first=0, group=0) for i in range(len(arrays) // 2))
    return KVCache(keys=tuple(arrays[0::2]), values=tuple(arrays[1::2]), places=places)


def dense_arrays(cache: KVCache) -> list[Array]:
    """What `dense_cache` takes."""
    return [array for pair in zip(cache.keys, cache.values, strict=True) for array in pair]


def block_bytes(config: ModelConfig, group: int, block_tokens: int, dtype: jnp.dtype | str) -> int:
    """The memory of a block in all layers of a group."""
    window = layer_windows(config)[group]
    layers = sum(config.window(i) == window for i in range(config.num_layers))
    vectors = 2 * layers * config.kv_heads * block_tokens
    return vectors * vector_width(config.head_size, dtype) * np.dtype(jnp.dtype(dtype)).itemsize
