"""What a decoder spends its time on: products with weights, and attention.

`matmul`, `attention` and `cached_attention` choose a backend: `xla`, plain JAX for any device, or `cpu`, native kernels
for x86-64 and aarch64. The choice follows the `level` that weights are packed for and that the cache is made with.
"""

from llm_jax.kernels.attention_dispatch import attention, cached_attention, has_native_attention
from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cache_copy import read_block, write_block
from llm_jax.kernels.cache_format import decode, encode, ring_capacity, vector_width
from llm_jax.kernels.cpu import available, best_level, features, use_huge_pages
from llm_jax.kernels.matmul_dispatch import matmul
from llm_jax.kernels.packed import WEIGHT_DTYPES, PackedMatrix, WeightDtype
from llm_jax.kernels.packing import pack, pack_gated
from llm_jax.kernels.xla import ACTIVATIONS, ActivationName, Norm, dropout, normalise, softcap
from llm_jax.native import Level

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
