"""ids -> logits."""

from llm_jax.model.cache import KVCache, Rows, init_cache
from llm_jax.model.model import Model, Params, forward, forward_hidden, head_params, init_params, merge, param_shapes
from llm_jax.model.packing import LiveModel, cast_model, pack_model
from llm_jax.model.positions import sinusoidal_table
from llm_jax.model.sharding import (
    cache_pieces,
    constrain_cache,
    constrain_whole,
    empty_cache,
    everywhere,
    param_sharding,
    shard_params,
    tensor_parallel_mesh,
)

__all__ = [
    "KVCache",
    "LiveModel",
    "Model",
    "Params",
    "Rows",
    "cache_pieces",
    "cast_model",
    "constrain_cache",
    "constrain_whole",
    "empty_cache",
    "everywhere",
    "forward",
    "forward_hidden",
    "head_params",
    "init_cache",
    "init_params",
    "merge",
    "pack_model",
    "param_shapes",
    "param_sharding",
    "shard_params",
    "sinusoidal_table",
    "tensor_parallel_mesh",
]
