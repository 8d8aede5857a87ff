"""Random bits as a pure function of a key and a counter: Threefry-2x32 with 20 rounds (Salmon et al., 2011,
doi:10.1145/2063384.2063405), the generator of `jax.random`.

JAX's own form of it on a CPU is a loop of small operations, which compile for half a second and run one by one.
Unrolled, they are one.
"""

import jax.numpy as jnp
from jax import Array

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA  # of a key schedule's third word


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
