"""Blocks of tokens out of a cache and into it.

On a CPU, XLA widens bfloat16 to float32 before it copies, and so converts a whole cache there and back for the sake of
one block. Natively, nothing but the block is touched.
"""

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.native import PUT, TAKE, available


def put_block(cache_BKSH: Array, block_1KTH: Array, row: Array, start: Array, *, native: bool | None = None) -> Array:
    """The cache with T tokens of one row replaced, from `start` on; moved back where they would end behind the row.

    Donate the cache to the jitted step, and it is changed in place.

    Args:
        native: whether to run natively: where that is possible, unless given.
    """
    if not (available() if native is None else native):
        return jax.lax.dynamic_update_slice(cache_BKSH, block_1KTH, (row, 0, start, 0))
    call = jax.ffi.ffi_call(PUT, jax.ShapeDtypeStruct(cache_BKSH.shape, cache_BKSH.dtype), input_output_aliases={0: 0})
    cache: Array = call(cache_BKSH, block_1KTH, jnp.stack([row, start]).astype(jnp.int32))
    return cache


def take_block(cache_BKSH: Array, length: int, row: Array, start: Array, *, native: bool | None = None) -> Array:
    """A copy [1, K, length, H] of one row's tokens from `start` on, as `put_block` places them."""
    _, K, _, H = cache_BKSH.shape
    if not (available() if native is None else native):
        return jax.lax.dynamic_slice(cache_BKSH, (row, 0, start, 0), (1, K, length, H))
    call = jax.ffi.ffi_call(TAKE, jax.ShapeDtypeStruct((1, K, length, H), cache_BKSH.dtype))
    block: Array = call(cache_BKSH, jnp.stack([row, start]).astype(jnp.int32))
    return block
