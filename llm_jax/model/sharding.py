"""Where each parameter lies when one model spans several devices: tensor parallelism as rules on names.

Column-parallel maps (q, k, v; the first of the feed-forward) are cut along their outputs and row-parallel ones
along their inputs, so that a layer needs one sum over devices behind attention and one behind the feed-forward
(Megatron-LM, arXiv:1909.08053). XLA inserts the sums.
"""

import re
from collections.abc import Mapping

import jax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_jax.config import ModelConfig
from llm_jax.model.cache import KVCache

AXIS = "model"

# The axis of each parameter that is cut; parameters that no rule names are whole on every device.
RULES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), axis)
    for pattern, axis in (
        (r"self_attn\.qkv_proj\.(weight|bias)$", 0),
        (r"self_attn\.out_proj\.weight$", 1),
        (r"mlp\.(fc1|gate_proj)\.(weight|bias)$", 0),
        (r"mlp\.fc2\.weight$", 1),
        (r"mlp\.experts\.(fc1|gate_proj)\.(weight|bias)$", 1),
        (r"mlp\.experts\.fc2\.weight$", 2),
        (r"lm_head\.(weight|bias)$", 0),
        (r"token_embeddings\.weight$", 0),
    )
)


def tensor_parallel_mesh(devices: int) -> Mesh:
    """A mesh of the first `devices` devices along the one axis that models are cut on."""
    return jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def shard_params(config: ModelConfig, params: Mapping[str, Array], mesh: Mesh) -> dict[str, Array]:
    """The same parameters, cut over the mesh. No head is cut; what does not divide evenly is whole on every device."""
    heads = {"qkv_proj": config.num_heads + 2 * config.kv_heads, "out_proj": config.num_heads}

    def spec(name: str, value: Array) -> PartitionSpec:
        axis = next((axis for pattern, axis in RULES if pattern.search(name)), None)
        if axis is None:
            return PartitionSpec()
        pieces = next((number for layer, number in heads.items() if layer in name), value.shape[axis])
        if pieces % mesh.size:
            return PartitionSpec()
        return PartitionSpec(*[AXIS if i == axis else None for i in range(value.ndim)])

    return {name: jax.device_put(x, NamedSharding(mesh, spec(name, x))) for name, x in params.items()}


def cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """Caches [B, K, S, H] are cut along their heads, where these divide evenly."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS if config.kv_heads % mesh.size == 0 else None))


def constrain_cache(config: ModelConfig, cache: KVCache, mesh: Mesh | None) -> KVCache:
    """Keeps a cache where it lies, so that a donated one is updated in place. Call it inside jit."""
    if mesh is None:
        return cache
    sharding = cache_sharding(config, mesh)
    keys, values = jax.lax.with_sharding_constraint((cache.keys, cache.values), sharding)
    return KVCache(keys, values, cache.length_B)
