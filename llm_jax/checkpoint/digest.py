"""The digest of an array: 64 bits that differ where any bit of it does, computed where the array lies.

It is no defence against intent. It is a sum over elements, so that an array has the same digest on any mesh: of each
element's bits mixed with its index, once by a product and once by MurmurHash3's finaliser. Both are bijections of the
element, so that a single changed element always shows; more of them go unnoticed once in 2^64.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def digests(arrays: Mapping[str, Array]) -> tuple[dict[str, str], list[str]]:
    """The digests of arrays as 16 hexadecimal digits, and the names of those that hold NaN or infinity."""
    # One after the other: on a mesh each is a program of all devices.
    sums: dict[str, Any] = {name: jax.device_get(_sums(value)) for name, value in arrays.items()}
    unbounded = [name for name, (_, _, finite) in sums.items() if not finite]
    return {name: f"{int(product):08x}{int(mixed):08x}" for name, (product, mixed, _) in sums.items()}, unbounded


def tree_digest(tree: Any) -> str:
    """One digest of all arrays in a tree."""
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return hashlib.sha256(json.dumps(digests(arrays)[0], sort_keys=True).encode()).hexdigest()[:16]


@jax.jit
def _sums(x: Array) -> tuple[Array, Array, Array]:
    """Two uint32 sums, and whether every element is finite."""
    finite = jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bool_(True)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):  # along each axis, so that a sharded array stays where it is
        index = index * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    bits, key = _bits(x), _mix(index + jnp.uint32(0x9E3779B9))
    return jnp.sum(bits * (key | 1), dtype=jnp.uint32), jnp.sum(_mix(bits ^ key), dtype=jnp.uint32), finite


def _bits(x: Array) -> Array:
    """The bits of each element, as uint32."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's 32-bit finaliser."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
