"""Random bits as a pure function of a key and a counter: Threefry-2x32 with 20 rounds (Salmon et al., 2011,
doi:10.1145/2063384.2063405), the generator of `jax.random`.

JAX's own form of it on a CPU is a loop of small operations, each of which passes over memory. Unrolled, they are one,
which compiles sooner, too.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA  # of a key schedule's third word
_MANTISSA = 23  # bits of a float32's fraction


def threefry(first_key: Array, second_key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Two words of random bits for each pair of counter words under a pair of key words: uint32, broadcast together."""
    keys = first_key, second_key, first_key ^ second_key ^ jnp.uint32(_PARITY)
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = first ^ (second << distance | second >> (32 - distance))
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return first, second


def bernoulli(key: Array, probability: float | Array, shape: tuple[int, ...]) -> Array:
    """True with this probability, bool: what `jax.random.bernoulli` gives, bit for bit, in less time."""
    words = jax.random.key_data(key)
    if words.shape != (2,) or math.prod(shape) > 2**32:  # another generator, or counters of two words
        return jax.random.bernoulli(key, probability, shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    indices = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride for axis, stride in enumerate(strides))
    first, second = threefry(words[0], words[1], jnp.uint32(0), sum(indices, start=jnp.zeros(shape, jnp.uint32)))
    one = jnp.uint32(0x3F800000)  # as a float32
    below_two = jax.lax.bitcast_convert_type((first ^ second) >> (32 - _MANTISSA) | one, jnp.float32)
    return below_two - 1 < probability
