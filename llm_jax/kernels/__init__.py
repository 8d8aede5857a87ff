"""What a decoder spends its time on: products with weights, and attention.

One door each, `matmul` and `attention` / `cached_attention`; behind them the backends: `xla`, plain JAX for any
device, and `cpu`, native kernels for x86-64. Which one runs is decided once, when weights are packed and the cache is
made, by their `level`.
"""

from llm_jax.kernels.attention import attention, cached_attention, has_native_attention
from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cache_copy import read_block, write_block
from llm_jax.kernels.cache_format import decode, encode, ring_capacity, vector_width
from llm_jax.kernels.cpu import available, best_level, features, use_huge_pages
from llm_jax.kernels.level import Level
from llm_jax.kernels.matmul import matmul
from llm_jax.kernels.pack import pack, pack_gated
from llm_jax.kernels.packed import WEIGHT_DTYPES, PackedMatrix, WeightDtype
from llm_jax.kernels.xla import ACTIVATIONS, ActivationName, Norm, dropout, normalise, softcap

__all__ = [
    "ACTIVATIONS",
    "WEIGHT_DTYPES",
    "ActivationName",
    "AttentionSettings",
    "ChunkLayout",
    "Level",
    "Norm",
    "PackedMatrix",
    "WeightDtype",
    "attention",
    "available",
    "best_level",
    "cached_attention",
    "decode",
    "dropout",
    "encode",
    "features",
    "has_native_attention",
    "matmul",
    "normalise",
    "pack",
    "pack_gated",
    "read_block",
    "ring_capacity",
    "softcap",
    "use_huge_pages",
    "vector_width",
    "write_block",
]
