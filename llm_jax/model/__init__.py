"""ids -> logits."""

from llm_jax.model.cache import KVCache, init_cache
from llm_jax.model.model import Model, Params, forward, forward_hidden, init_params, merge, param_shapes
from llm_jax.model.packing import pack_model
from llm_jax.model.positions import sinusoidal_table

__all__ = [
    "KVCache",
    "Model",
    "Params",
    "forward",
    "forward_hidden",
    "init_cache",
    "init_params",
    "merge",
    "pack_model",
    "param_shapes",
    "sinusoidal_table",
]
