"""What a decoder spends its time on: products with weights, and attention.

`matmul`, `attention` and `cached_attention` choose a backend: `xla`, plain JAX for any device, or `cpu`, native kernels
for x86-64 and aarch64. The choice follows the `level` that weights are packed for and that the cache is made with.
"""

from llm_jax.kernels.argmax_dispatch import first_argmax
from llm_jax.kernels.attention_dispatch import attention, cached_attention, empty, has_native_attention
from llm_jax.kernels.attention_inputs import NO_BLOCK, AttentionSettings, ChunkLayout
from llm_jax.kernels.blocks import FORMATS, PANEL, BlockMatrix, BlockRows, Format, QuantisedMatrix
from llm_jax.kernels.cache_format import decode, encode, vector_width
from llm_jax.kernels.cpu import available, best_level, features
from llm_jax.kernels.low_rank_dispatch import add_low_rank, low_rank
from llm_jax.kernels.matmul_dispatch import (
    frozen_matmul,
    has_native_linear,
    linear,
    matmul,
    rows,
    summed_matmul,
    values,
)
from llm_jax.kernels.packed import WEIGHT_DTYPES, FrozenMatrix, PackedMatrix, SummedMatrix, WeightDtype
from llm_jax.kernels.packing import join, pack, pack_blocks, pack_frozen, pack_gated, quantise
from llm_jax.kernels.update_dispatch import adamw, has_native_update, norm
from llm_jax.kernels.xla import (
    ACTIVATIONS,
    ActivationName,
    Norm,
    afresh,
    bernoulli,
    dropout,
    normalise,
    rotate,
    softcap,
    threefry,
)
from llm_jax.native import Level

__all__ = [
    "ACTIVATIONS",
    "FORMATS",
    "NO_BLOCK",
    "PANEL",
    "WEIGHT_DTYPES",
    "ActivationName",
    "AttentionSettings",
    "BlockMatrix",
    "BlockRows",
    "ChunkLayout",
    "Format",
    "FrozenMatrix",
    "Level",
    "Norm",
    "PackedMatrix",
    "QuantisedMatrix",
    "SummedMatrix",
    "WeightDtype",
    "adamw",
    "add_low_rank",
    "afresh",
    "attention",
    "available",
    "bernoulli",
    "best_level",
    "cached_attention",
    "decode",
    "dropout",
    "empty",
    "encode",
    "features",
    "first_argmax",
    "frozen_matmul",
    "has_native_attention",
    "has_native_linear",
    "has_native_update",
    "join",
    "linear",
    "low_rank",
    "matmul",
    "norm",
    "normalise",
    "pack",
    "pack_blocks",
    "pack_frozen",
    "pack_gated",
    "quantise",
    "rotate",
    "rows",
    "softcap",
    "summed_matmul",
    "threefry",
    "values",
    "vector_width",
]
