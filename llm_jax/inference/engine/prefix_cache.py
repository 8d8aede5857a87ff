"""Keys and values of prompt blocks, kept across requests: a shared beginning is computed once.

Blocks are named by the chain of what stands before them, so that a block is found only behind the same beginning
(vLLM's automatic prefix caching works alike). They lie in a pool beside the rows and are copied into a row when a
request is admitted; attention itself knows nothing of them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.model import KVCache

BLOCK = 64  # tokens


def block_keys(prompt_ids: tuple[int, ...], salt: str) -> list[bytes]:
    """The names of a prompt's whole blocks, except the one with its last token: that must be computed anyway.

    `salt` keeps tenants apart: the same text under another salt has other names, and its timing tells nothing.
    """
    key, keys = blake2b(salt.encode(), digest_size=16).digest(), []
    for start in range(0, len(prompt_ids) - BLOCK, BLOCK):
        tokens = np.array(prompt_ids[start : start + BLOCK], np.int32).tobytes()
        key = blake2b(tokens, key=key, digest_size=16).digest()
        keys.append(key)
    return keys


class PrefixCache:
    """A pool of blocks; the one that was not used for longest makes room.

    Args:
        pool: memory for the blocks, one in each slot. It is donated.

    Attributes:
        blocks: how many there is room for.
        free: places that hold nothing yet.
    """

    def __init__(self, pool: KVCache) -> None:
        self.blocks = pool.slots
        self.free = list(reversed(range(self.blocks)))
        self._pool = pool
        self._place: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first

    @property
    def held(self) -> int:
        return len(self._place)

    def load(self, cache: KVCache, row: int, keys: Sequence[bytes]) -> tuple[KVCache, int]:
        """Copies the longest known beginning into a row; gives the number of its tokens."""
        for index, key in enumerate(keys):
            if key not in self._place:
                return cache, index * BLOCK
            self._place.move_to_end(key)
            place = self._place[key]
            cache = _load_block(cache, self._pool, np.int32(place), np.int32(row), np.int32(index * BLOCK))
        return cache, len(keys) * BLOCK

    def save(self, cache: KVCache, row: int, index: int, key: bytes) -> None:
        """Keeps one block of a row that holds it."""
        if key in self._place:
            self._place.move_to_end(key)
            return
        place = self.free.pop() if self.free else self._place.popitem(last=False)[1]
        self._pool = _save_block(self._pool, cache, np.int32(place), np.int32(row), np.int32(index * BLOCK))
        self._place[key] = place

    def warmup(self, cache: KVCache) -> KVCache:
        """Compiles both copies."""
        if not self.blocks:
            return cache
        zero = np.int32(0)
        self._pool = _save_block(self._pool, cache, zero, zero, zero)
        return _load_block(cache, self._pool, zero, zero, zero)


@partial(jax.jit, donate_argnames="cache")
def _load_block(cache: KVCache, pool: KVCache, place: Array, slot: Array, start: Array) -> KVCache:
    return cache.copy_block(pool, BLOCK, source_slot=place, source_start=jnp.int32(0), slot=slot, start=start)


@partial(jax.jit, donate_argnames="pool")
def _save_block(pool: KVCache, cache: KVCache, place: Array, slot: Array, start: Array) -> KVCache:
    return pool.copy_block(cache, BLOCK, source_slot=slot, source_start=start, slot=place, start=jnp.int32(0))
