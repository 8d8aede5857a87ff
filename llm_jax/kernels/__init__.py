"""What decoding on a CPU spends its time on: products with packed weights, and attention over the cache.

Native kernels where the library is built and the processor has what they need, XLA's own otherwise; the choice is
made once, when weights are packed.
"""

from llm_jax.kernels.attention import cached_attention, has_native_attention
from llm_jax.kernels.blocks import put_block, take_block
from llm_jax.kernels.native import Level, available, best_level, features
from llm_jax.kernels.packed import KINDS, Kind, PackedMatrix, pack, pack_gated
from llm_jax.kernels.product import ACTIVATIONS, ActivationName, Norm, matmul

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "ActivationName",
    "Kind",
    "Level",
    "Norm",
    "PackedMatrix",
    "available",
    "best_level",
    "cached_attention",
    "features",
    "has_native_attention",
    "matmul",
    "pack",
    "pack_gated",
    "put_block",
    "take_block",
]
