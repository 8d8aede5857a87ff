"""What decoding on a CPU spends its time on: products with packed weights, and attention over the cache.

Native kernels where the library is built and the processor has what they need, XLA's own otherwise; the choice is
made once, when weights are packed.
"""

from llm_jax.kernels.attention import cached_attention, has_native_attention
from llm_jax.kernels.blocks import put_block, take_block
from llm_jax.kernels.cached import from_rows, held_positions, ring_capacity, row_width, slots, to_rows
from llm_jax.kernels.native import Level, available, best_level, features, use_huge_pages
from llm_jax.kernels.packed import WEIGHT_DTYPES, PackedMatrix, WeightDtype, pack, pack_gated
from llm_jax.kernels.product import ACTIVATIONS, ActivationName, Norm, matmul

__all__ = [
    "ACTIVATIONS",
    "WEIGHT_DTYPES",
    "ActivationName",
    "Level",
    "Norm",
    "PackedMatrix",
    "WeightDtype",
    "available",
    "best_level",
    "cached_attention",
    "features",
    "from_rows",
    "has_native_attention",
    "held_positions",
    "matmul",
    "pack",
    "pack_gated",
    "put_block",
    "ring_capacity",
    "row_width",
    "slots",
    "take_block",
    "to_rows",
    "use_huge_pages",
]
