"""ids -> logits.

What needs Flax is imported at its first use, see `model.py`.
"""

from llm_jax.kernels import NO_BLOCK, ChunkLayout
from llm_jax.model.adapter_slots import AdapterCapacity, AdapterStack, adapter_rows
from llm_jax.model.cache import (
    KVCache,
    block_bytes,
    dense_arrays,
    dense_cache,
    dense_layout,
    init_cache,
    layer_windows,
)
from llm_jax.model.initial import init_params, initial_distribution
from llm_jax.model.lora import Adapter, LoraModule, LowRank, Rows, adapted, init_lora, low_rank, merged_weight
from llm_jax.model.model import (
    Model,
    Params,
    forward,
    forward_hidden,
    forward_routed,
    head_params,
    merge,
    observe_inputs,
)
from llm_jax.model.packing import (
    MODEL_DTYPES,
    ModelDtype,
    MutableModel,
    cast_model,
    freeze,
    kernel_level,
    pack_model,
    weight_types,
)
from llm_jax.model.positions import rope_frequencies, sinusoidal_table
from llm_jax.model.routing import Routing
from llm_jax.model.shapes import param_shapes
from llm_jax.model.sharding import allocate_cache, cache_devices, param_sharding
from llm_jax.parallel import tensor_parallel_mesh

__all__ = [
    "MODEL_DTYPES",
    "NO_BLOCK",
    "Adapter",
    "AdapterCapacity",
    "AdapterStack",
    "ChunkLayout",
    "KVCache",
    "LoraModule",
    "LowRank",
    "Model",
    "ModelDtype",
    "MutableModel",
    "Params",
    "Routing",
    "Rows",
    "adapted",
    "adapter_rows",
    "allocate_cache",
    "block_bytes",
    "cache_devices",
    "cast_model",
    "dense_arrays",
    "dense_cache",
    "dense_layout",
    "forward",
    "forward_hidden",
    "forward_routed",
    "freeze",
    "head_params",
    "init_cache",
    "init_lora",
    "init_params",
    "initial_distribution",
    "kernel_level",
    "layer_windows",
    "low_rank",
    "merge",
    "merged_weight",
    "observe_inputs",
    "pack_model",
    "param_shapes",
    "param_sharding",
    "rope_frequencies",
    "sinusoidal_table",
    "tensor_parallel_mesh",
    "weight_types",
]
