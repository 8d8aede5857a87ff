"""ids -> logits."""

from llm_jax.model.cache import ChunkLayout, KVCache, init_cache
from llm_jax.model.model import Model, Params, forward, forward_hidden, head_params, init_params, merge, param_shapes
from llm_jax.model.packing import LiveModel, cast_model, kernel_level, pack_model
from llm_jax.model.positions import rope_frequencies, sinusoidal_table
from llm_jax.model.sharding import (
    allocate_cache,
    cache_devices,
    constrain_whole,
    everywhere,
    param_sharding,
    shard_params,
    tensor_parallel_mesh,
)

__all__ = [
    "ChunkLayout",
    "KVCache",
    "LiveModel",
    "Model",
    "Params",
    "allocate_cache",
    "cache_devices",
    "cast_model",
    "constrain_whole",
    "everywhere",
    "forward",
    "forward_hidden",
    "head_params",
    "init_cache",
    "init_params",
    "kernel_level",
    "merge",
    "pack_model",
    "param_shapes",
    "param_sharding",
    "rope_frequencies",
    "shard_params",
    "sinusoidal_table",
    "tensor_parallel_mesh",
]
