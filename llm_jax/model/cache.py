"""The key/value cache: what attention has seen, stored between calls.

Its layout is known here and in `llm_jax.kernels` alone; everything else uses the methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from llm_jax.config import ModelConfig
from llm_jax.kernels import AttentionSettings, ChunkLayout, Level, cached_attention, empty, vector_width


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values [Z, K, X, H], as attention appends to them and reads them, and its group."""

    keys: Array
    values: Array
    group: int
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
            layout.blocks[self.group],
            layout,
            settings,
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
    differ in which tokens they still need (`groups`).

    Build one with `init_cache`, inside or outside jit; donate it to each step, and it is changed in place.

    Attributes:
        keys, values: L arrays [Z, K, X, H], encoded as llm_jax/kernels/cache_format.py says. A list, not one stacked
            array, so that XLA updates each in place. Z differs between groups.
        layer_groups: static, the group of each layer.
        level: static, which kernels read and write it.
        sharding: static, of keys and values on a mesh of several devices; None on one device.
    """

    keys: list[Array]
    values: list[Array]
    layer_groups: tuple[int, ...] = field(metadata={"static": True})
    level: Level = field(default=Level.XLA, metadata={"static": True})
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self.keys[index], self.values[index], self.layer_groups[index], self.level)

    def with_layers(self, layers: Sequence[LayerCache]) -> "KVCache":
        """The cache with these keys and values."""
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        if self.sharding is not None:  # donated memory is reused only under the sharding that it has
            keys, values = jax.lax.with_sharding_constraint((keys, values), self.sharding)
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
    groups = tuple(windows.index(config.window(i)) for i in range(config.num_layers))
    counts = [blocks] * len(windows) if isinstance(blocks, int) else blocks
    width = vector_width(config.head_size, dtype)

    def arrays() -> list[Array]:
        return [empty((counts[group], config.kv_heads, block_tokens, width), dtype, level) for group in groups]

    return KVCache(keys=arrays(), values=arrays(), layer_groups=groups, level=level, sharding=sharding)


def dense_layout(cache: KVCache, cached_B: Array, tokens: int) -> ChunkLayout:
    """The next `tokens` tokens of B sequences, each of which has the block of its number, as long as its context."""
    B = len(cached_B)
    blocks = jnp.arange(B, dtype=jnp.int32)[:, None]
    return ChunkLayout(cached_B, jnp.full(B, tokens, jnp.int32), (blocks,) * (1 + max(cache.layer_groups)))


def dense_cache(arrays: Sequence[Array]) -> KVCache:
    """A cache over the caller's arrays: k, v, k, v … of all layers, each [B, K, S, H]. See `dense_layout`."""
    return KVCache(keys=list(arrays[0::2]), values=list(arrays[1::2]), layer_groups=(0,) * (len(arrays) // 2))


def dense_arrays(cache: KVCache) -> list[Array]:
    """What `dense_cache` takes."""
    return [array for pair in zip(cache.keys, cache.values, strict=True) for array in pair]


def block_bytes(config: ModelConfig, group: int, block_tokens: int, dtype: jnp.dtype | str) -> int:
    """The memory of a block in all layers of a group."""
    window = layer_windows(config)[group]
    layers = sum(config.window(i) == window for i in range(config.num_layers))
    vectors = 2 * layers * config.kv_heads * block_tokens
    return vectors * vector_width(config.head_size, dtype) * np.dtype(jnp.dtype(dtype)).itemsize
