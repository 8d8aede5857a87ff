"""Where each parameter lies when one model spans several devices: tensor parallelism as rules on names.

Column-parallel maps (q, k, v; the first of the feed-forward) are cut along their outputs and row-parallel ones
along their inputs, so that a layer needs one sum over devices behind attention and one behind the feed-forward
(Megatron-LM, arXiv:1909.08053). XLA inserts the sums.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.kernels import Level
from llm_jax.model.cache import KVCache, init_cache

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
    """A mesh of the first `devices` devices along the one axis that models are cut on.

    Raises:
        ConfigError: there are fewer.
    """
    if not 1 <= devices <= len(jax.devices()):
        raise ConfigError(f"The model is to be spread over {devices} devices, but JAX finds {len(jax.devices())} here.")
    return jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def param_sharding(config: ModelConfig, name: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where a parameter lies. No head is cut; what does not divide evenly is whole on every device."""
    axis = next((axis for pattern, axis in RULES if pattern.search(name)), None)
    if axis is None:
        return everywhere(mesh)
    heads = {"qkv_proj": config.num_heads + 2 * config.kv_heads, "out_proj": config.num_heads}
    pieces = next((number for layer, number in heads.items() if layer in name), shape[axis])
    if pieces % mesh.size:
        return everywhere(mesh)
    return NamedSharding(mesh, PartitionSpec(*[AXIS if i == axis else None for i in range(len(shape))]))


def shard_params(config: ModelConfig, params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The same parameters, spread over the mesh. Of a matrix that is packed for XLA, the scales go with their rows."""

    def spread(name: str, value: Any) -> Any:
        spec = param_sharding(config, name, value.shape, mesh).spec
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))), value)

    return {name: spread(name, value) for name, value in params.items()}


def everywhere(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """Caches [B, K, S, H] are cut along their heads, where these divide evenly."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS if cache_devices(config, mesh) > 1 else None))


def cache_devices(config: ModelConfig, mesh: Mesh | None) -> int:
    """On how many devices a part of each cache lies."""
    return mesh.size if mesh is not None and config.kv_heads % mesh.size == 0 else 1


def allocate_cache(
    config: ModelConfig,
    slots: int,
    max_len: int,
    dtype: jnp.dtype | str,
    *,
    chunk: int | None = None,
    level: Level = Level.XLA,
    mesh: Mesh | None = None,
) -> KVCache:
    """What `init_cache` makes, at once where it shall lie: no single device may have memory for it. Not inside jit."""
    if mesh is None:
        return init_cache(config, slots, max_len, dtype, chunk=chunk, level=level)
    cut = cache_sharding(config, mesh)
    make = partial(init_cache, config, slots, max_len, dtype, chunk=chunk, level=level, sharding=cut)
    sharded: Any = cut
    whole: Any = everywhere(mesh)
    like = jax.eval_shape(make)
    return jax.jit(make, out_shardings=replace(like, keys=sharded, values=sharded, length_B=whole))()


def constrain_whole(tree: Any, mesh: Mesh | None) -> Any:
    """Keeps arrays whole on every device, so that what takes them is compiled once. Call it inside jit."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, everywhere(mesh))
