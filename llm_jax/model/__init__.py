"""ids -> logits."""

from llm_jax.model.cache import KVCache, Rows, init_cache
from llm_jax.model.model import Model, Params, forward, forward_hidden, head_params, init_params, merge, param_shapes
from llm_jax.model.packing import LiveModel, cast_model, pack_model
from llm_jax.model.positions import sinusoidal_table
from llm_jax.model.sharding import cache_sharding, constrain_cache, shard_params, tensor_parallel_mesh

__all__ = [
    "KVCache",
    "LiveModel",
    "Model",
    "Params",
    "Rows",
    "cache_sharding",
    "cast_model",
    "constrain_cache",
    "forward",
    "forward_hidden",
    "head_params",
    "init_cache",
    "init_params",
    "merge",
    "pack_model",
    "param_shapes",
    "shard_params",
    "sinusoidal_table",
    "tensor_parallel_mesh",
]
