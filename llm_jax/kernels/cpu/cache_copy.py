"""Copies of a few tokens in a cache.

On a CPU, XLA widens bfloat16 to float32 before it copies, and so converts a whole cache there and back for the sake of
one block. Natively, nothing but the block is touched.
"""

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.cpu.native import READ_BLOCK, WRITE_BLOCK


def write_block(cache_BKSH: Array, block_1KTH: Array, slot: Array, start: Array) -> Array:
    """See `llm_jax.kernels.write_block`."""
    call = jax.ffi.ffi_call(
        WRITE_BLOCK, jax.ShapeDtypeStruct(cache_BKSH.shape, cache_BKSH.dtype), input_output_aliases={0: 0}
    )
    cache: Array = call(cache_BKSH, block_1KTH, jnp.stack([slot, start]).astype(jnp.int32))
    return cache


def read_block(cache_BKSH: Array, length: int, slot: Array, start: Array) -> Array:
    """See `llm_jax.kernels.read_block`."""
    _, K, _, H = cache_BKSH.shape
    call = jax.ffi.ffi_call(READ_BLOCK, jax.ShapeDtypeStruct((1, K, length, H), cache_BKSH.dtype))
    block: Array = call(cache_BKSH, jnp.stack([slot, start]).astype(jnp.int32))
    return block
