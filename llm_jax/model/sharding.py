"""The logical axes of parameters and of the KV cache, and their sharding on a mesh.

Column-parallel maps (q, k, v; the first of the feed-forward) are sharded along their outputs and row-parallel ones
along their inputs, so that a layer needs one sum over devices after attention and one after the feed-forward
(Megatron-LM, arXiv:1909.08053). XLA inserts the sums.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax import parallel
from llm_jax.config import ModelConfig
from llm_jax.kernels import Level
from llm_jax.model.cache import KVCache, init_cache

# Logical axes of the parameters; those that no pattern names are replicated.
PARAM_AXES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), axes)
    for pattern, axes in (
        (r"self_attn\.qkv_proj\.weight$", ("heads", "embed")),
        (r"self_attn\.qkv_proj\.bias$", ("heads",)),
        (r"self_attn\.out_proj\.weight$", ("embed", "heads")),
        (r"mlp\.(fc1|gate_proj)\.weight$", ("ffn", "embed")),
        (r"mlp\.(fc1|gate_proj)\.bias$", ("ffn",)),
        (r"mlp\.fc2\.weight$", ("embed", "ffn")),
        (r"mlp\.experts\.(fc1|gate_proj)\.weight$", ("expert", "ffn", "embed")),
        (r"mlp\.experts\.(fc1|gate_proj)\.bias$", ("expert", "ffn")),
        (r"mlp\.experts\.fc2\.weight$", ("expert", "embed", "ffn")),
        (r"lm_head\.weight$", ("vocab", "embed")),
        (r"lm_head\.bias$", ("vocab",)),
        (r"token_embeddings\.weight$", ("vocab", "embed")),
    )
)
CACHE_AXES = (None, "heads", None, None)  # of keys and values [Z, K, X, H]


def param_sharding(config: ModelConfig, name: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter. No head is split; what does not divide evenly is replicated."""
    axes = next((axes for pattern, axes in PARAM_AXES if pattern.search(name)), ())
    heads = config.num_heads + (2 * config.kv_heads if "qkv_proj" in name else 0)
    counts = [heads if axis == "heads" else size for axis, size in zip(axes, shape, strict=False)]
    return parallel.sharding(mesh, axes, counts)


def shard_params(config: ModelConfig, params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The same parameters, sharded over the mesh. Of a matrix that is packed for XLA, the scales go with their rows."""

    def shard(name: str, value: Any) -> Any:
        spec = param_sharding(config, name, value.shape, mesh).spec
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))), value)

    return {name: shard(name, value) for name, value in params.items()}


def cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """Caches are sharded along their heads, where these divide evenly."""
    return parallel.sharding(mesh, CACHE_AXES, (1, config.kv_heads, 1, 1))


def cache_devices(config: ModelConfig, mesh: Mesh | None) -> int:
    """How many devices share each cache."""
    return 1 if mesh is None else parallel.parts(cache_sharding(config, mesh))


def allocate_cache(
    config: ModelConfig,
    blocks: Sequence[int],
    block_tokens: int,
    dtype: jnp.dtype | str,
    *,
    level: Level = Level.XLA,
    mesh: Mesh | None = None,
) -> KVCache:
    """An empty cache (see `init_cache`), sharded from the start: no device may have memory for it all. Not in jit."""
    if mesh is None:
        return init_cache(config, blocks, block_tokens, dtype, level=level)
    sharding: Any = cache_sharding(config, mesh)
    make = partial(init_cache, config, blocks, block_tokens, dtype, level=level, sharding=sharding)
    shardings = replace(jax.eval_shape(make), keys=sharding, values=sharding)
    return jax.jit(make, out_shardings=shardings)()
