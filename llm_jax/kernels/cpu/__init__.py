"""Native kernels for x86-64 and aarch64 processors, in C++ (src/): called through XLA's foreign function interface."""

from llm_jax.kernels.cpu.argmax import first_argmax
from llm_jax.kernels.cpu.attention import HEAD_STEP, LARGEST_HEAD, cached_attention, empty
from llm_jax.kernels.cpu.blocks import aligned, block_matmul, pack_blocks, quantise
from llm_jax.kernels.cpu.low_rank import low_rank
from llm_jax.kernels.cpu.matmul import TILE, dense, matmul, pack_tiles, unpacked_rows
from llm_jax.kernels.cpu.native import available, best_level, features, is_built
from llm_jax.kernels.cpu.self_attention import self_attention
from llm_jax.kernels.cpu.update import adamw, norm

__all__ = [
    "HEAD_STEP",
    "LARGEST_HEAD",
    "TILE",
    "adamw",
    "aligned",
    "available",
    "best_level",
    "block_matmul",
    "cached_attention",
    "dense",
    "empty",
    "features",
    "first_argmax",
    "is_built",
    "low_rank",
    "matmul",
    "norm",
    "pack_blocks",
    "pack_tiles",
    "quantise",
    "self_attention",
    "unpacked_rows",
]
