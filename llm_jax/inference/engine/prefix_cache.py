"""The prefix cache: keys and values of prompt blocks, which requests with a common prefix share.

A block's key is a hash chain over the prompt up to its end, so that it is found behind the same prefix only (as in
vLLM's automatic prefix caching). Blocks are stored in a pool beside the batch slots and copied into a slot at
admission; attention does not see the pool.
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

BLOCK_SIZE = 64  # tokens: large enough that copies are few, small enough that most of a common prefix is whole blocks
_KEY_BYTES = 16  # 128 bits, so that no two prefixes collide


class PrefixCache:
    """A pool of blocks with least-recently-used replacement.

    Args:
        pool: memory for the blocks, one per slot. It is donated.

    Attributes:
        capacity: blocks in the pool.
        free: indices of the blocks that are not in use.
    """

    def __init__(self, pool: KVCache) -> None:
        self.capacity = pool.slots
        self.free = list(reversed(range(self.capacity)))
        self._pool = pool
        self._blocks: OrderedDict[bytes, int] = OrderedDict()  # key -> index, the least recently used first

    @property
    def stored(self) -> int:
        """Blocks in use."""
        return len(self._blocks)

    def block_keys(self, prompt_ids: tuple[int, ...], salt: str) -> list[bytes]:
        """Keys of a prompt's whole blocks, except the one with its last token: that must be computed anyway.

        `salt` separates tenants: the same text under another salt has other keys, and its timing reveals nothing.
        """
        if not self.capacity:
            return []
        key, keys = blake2b(salt.encode(), digest_size=_KEY_BYTES).digest(), []
        for start in range(0, len(prompt_ids) - BLOCK_SIZE, BLOCK_SIZE):
            tokens = np.array(prompt_ids[start : start + BLOCK_SIZE], np.int32).tobytes()
            key = blake2b(tokens, key=key, digest_size=_KEY_BYTES).digest()
            keys.append(key)
        return keys

    def load(self, cache: KVCache, slot: int, keys: Sequence[bytes]) -> tuple[KVCache, int]:
        """Copies the longest stored prefix into a slot; returns the number of its tokens."""
        for index, key in enumerate(keys):
            if key not in self._blocks:
                return cache, index * BLOCK_SIZE
            self._blocks.move_to_end(key)
            block = self._blocks[key]
            cache = _load_block(cache, self._pool, np.int32(block), np.int32(slot), np.int32(index * BLOCK_SIZE))
        return cache, len(keys) * BLOCK_SIZE

    def save(self, cache: KVCache, slot: int, index: int, key: bytes) -> None:
        """Stores the block with this index of a slot's sequence."""
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return
        block = self.free.pop() if self.free else self._blocks.popitem(last=False)[1]
        self._pool = _save_block(self._pool, cache, np.int32(block), np.int32(slot), np.int32(index * BLOCK_SIZE))
        self._blocks[key] = block

    def warmup(self, cache: KVCache) -> KVCache:
        """Compiles both copies."""
        if not self.capacity:
            return cache
        zero = np.int32(0)
        self._pool = _save_block(self._pool, cache, zero, zero, zero)
        return _load_block(cache, self._pool, zero, zero, zero)


@partial(jax.jit, donate_argnames="cache")
def _load_block(cache: KVCache, pool: KVCache, block: Array, slot: Array, start: Array) -> KVCache:
    return cache.copy_block(pool, BLOCK_SIZE, source_slot=block, source_start=jnp.int32(0), slot=slot, start=start)


@partial(jax.jit, donate_argnames="pool")
def _save_block(pool: KVCache, cache: KVCache, block: Array, slot: Array, start: Array) -> KVCache:
    return pool.copy_block(cache, BLOCK_SIZE, source_slot=slot, source_start=start, slot=block, start=jnp.int32(0))
