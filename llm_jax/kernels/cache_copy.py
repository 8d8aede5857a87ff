"""Copies of a few tokens of one slot out of a cache and into it."""

import jax
from jax import Array

from llm_jax.kernels import cpu


def write_block(cache_BKSH: Array, block_1KTH: Array, slot: Array, start: Array, *, native: bool) -> Array:
    """The cache with T tokens of one slot replaced, from `start` on; moved back where they would end behind the slot.

    Donate the cache to the jitted step, and it is changed in place.

    Args:
        native: by the native kernel, which must be built.
    """
    if native:
        return cpu.write_block(cache_BKSH, block_1KTH, slot, start)
    return jax.lax.dynamic_update_slice(cache_BKSH, block_1KTH, (slot, 0, start, 0))


def read_block(cache_BKSH: Array, length: int, slot: Array, start: Array, *, native: bool) -> Array:
    """A copy [1, K, length, H] of one slot's tokens from `start` on, placed as `write_block` places them."""
    if native:
        return cpu.read_block(cache_BKSH, length, slot, start)
    _, K, _, H = cache_BKSH.shape
    return jax.lax.dynamic_slice(cache_BKSH, (slot, 0, start, 0), (1, K, length, H))
