"""Which blocks of the KV cache each sequence uses, and which stay cached for prompts that begin alike; on the host.

A block is used by one or more sequences, or cached, or free. A complete block has a key, a hash chain over the text up
to its end, so that it is found behind the same beginning only (as in vLLM's automatic prefix caching): a sequence whose
prompt begins alike uses the same blocks, and nothing is copied. A shared block is complete, and thus never written.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from llm_jax.model import NO_BLOCK

BLOCK_TOKENS = 64  # the keys that the native kernel reads at a time
_KEY_BYTES = 16  # 128 bits, so that no two beginnings collide


def block_keys(tokens: Sequence[int], known: Sequence[bytes], salt: str) -> list[bytes]:
    """Keys of the whole blocks of a text behind those that are `known`.

    `salt` separates tenants: the same text under another salt has other keys, and its timing reveals nothing.
    """
    key = known[-1] if known else blake2b(salt.encode(), digest_size=_KEY_BYTES).digest()
    keys = []
    for end in range((len(known) + 1) * BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        block = np.array(tokens[end - BLOCK_TOKENS : end], np.int32).tobytes()
        key = blake2b(block, key=key, digest_size=_KEY_BYTES).digest()
        keys.append(key)
    return keys


class _Blocks:
    """The blocks of one group of layers.

    Args:
        count: how many there are.
        keep: how many may be cached. The least recently used one makes room.

    Attributes:
        cached: blocks that no sequence uses but which have a key, the least recently used first.
    """

    def __init__(self, count: int, keep: int) -> None:
        self.count = count
        self.cached: OrderedDict[int, None] = OrderedDict()
        self._keep = keep
        self._free = list(range(count))[::-1]  # the last to be freed is taken first: its memory was touched before
        self._users = [0] * count
        self._key: list[bytes | None] = [None] * count
        self._by_key: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        return len(self._free) + len(self.cached)

    def find(self, key: bytes) -> int | None:
        return self._by_key.get(key)

    def take(self) -> int:
        """A block for new tokens; there must be one available."""
        block = self._free.pop() if self._free else self._forget()
        self._users[block] = 1
        return block

    def hold(self, block: int) -> None:
        self.cached.pop(block, None)
        self._users[block] += 1

    def release(self, block: int) -> None:
        self._users[block] -= 1
        if self._users[block]:
            return
        if self._key[block] is None:
            self._free.append(block)
            return
        self.cached[block] = None
        if len(self.cached) > self._keep:
            self._free.append(self._forget())

    def name(self, block: int, key: bytes) -> int:
        """Gives a complete block its key. Returns the block that has it: an equal one, if there is one already."""
        known = self._by_key.setdefault(key, block)
        if known == block:
            self._key[block] = key
        else:
            self.hold(known)
            self.release(block)
        return known

    def _forget(self) -> int:
        """The least recently used cached block, with its key taken away."""
        block, _ = self.cached.popitem(last=False)
        key, self._key[block] = self._key[block], None
        assert key is not None
        del self._by_key[key]
        return block


class BlockPool:
    """The blocks of every group of layers, and the table of each batch slot.

    A layer with a window needs the blocks that some later token still sees; the others are released (`trim`).

    Args:
        counts: blocks of each group; windows: the groups' windows (`layer_windows`).
        slots: batch slots. max_len: tokens of a sequence.
        keep: blocks of each group that may stay cached when no sequence uses them.

    Attributes:
        tables: for each group int32 [slots, Y], as `ChunkLayout.blocks` wants it.
    """

    def __init__(
        self, counts: Sequence[int], windows: Sequence[int | None], *, slots: int, max_len: int, keep: int
    ) -> None:
        self._counts, self._windows, self._keep = counts, windows, keep
        self.tables = [np.empty((slots, -(-max_len // BLOCK_TOKENS)), np.int32) for _ in counts]
        self.reset()

    def reset(self) -> None:
        """Forgets everything: all blocks are free."""
        self._groups = [_Blocks(count, self._keep) for count in self._counts]
        self._ends = [[0] * len(table) for table in self.tables]  # behind a slot's last block
        self._trimmed = [[0] * len(table) for table in self.tables]  # the first block that it has not released
        for table in self.tables:
            table[:] = NO_BLOCK

    @property
    def count(self) -> int:
        """Blocks of all groups."""
        return sum(group.count for group in self._groups)

    @property
    def used(self) -> int:
        """Blocks that some sequence uses."""
        return sum(group.count - group.available for group in self._groups)

    @property
    def cached(self) -> int:
        """Blocks that are cached for a prompt that begins alike, and given up for any other."""
        return sum(len(group.cached) for group in self._groups)

    def admit(self, slot: int, tokens: int, keys: Sequence[bytes], *, reserve: int) -> int | None:
        """Gives a slot the known blocks that its text begins with, and new ones for the rest of the text.

        Args:
            tokens: length of the text.
            keys: those of its whole blocks that may be reused.
            reserve: blocks of each group that must stay available.

        Returns:
            How many tokens are cached; None, and nothing has changed, where there is no room.
        """
        hits = self._match(keys)
        for g, group in enumerate(self._groups):
            first = self._first_seen(g, hits * BLOCK_TOKENS)
            found = [group.find(key) for key in keys[first:hits]]
            for i, block in enumerate(found, first):
                assert block is not None
                group.hold(block)
                self.tables[g][slot, i] = block
            self._ends[g][slot], self._trimmed[g][slot] = hits, first
        text = [-(-tokens // BLOCK_TOKENS) - hits if window is None else 0 for window in self._windows]
        if any(group.available < n + reserve for group, n in zip(self._groups, text, strict=True)):
            self.release(slot)
            return None
        for g, window in enumerate(self._windows):
            if window is None:  # with a window, blocks come with each chunk and go with the next
                self._take(g, slot, tokens)
        return hits * BLOCK_TOKENS

    def extend(self, slot: int, end: int) -> bool:
        """Makes sure that a slot has blocks up to position `end`; False, with nothing changed, if there is no room."""
        needed = -(-end // BLOCK_TOKENS)
        if any(needed - ends[slot] > group.available for group, ends in zip(self._groups, self._ends, strict=True)):
            return False
        for g in range(len(self._groups)):
            self._take(g, slot, end)
        return True

    def trim(self, slot: int, cached: int) -> None:
        """Releases the blocks that no token behind the first `cached` sees."""
        for g, group in enumerate(self._groups):
            first = min(self._first_seen(g, cached), self._ends[g][slot])
            for i in range(self._trimmed[g][slot], first):
                group.release(int(self.tables[g][slot, i]))
                self.tables[g][slot, i] = NO_BLOCK
            self._trimmed[g][slot] = max(self._trimmed[g][slot], first)

    def name(self, slot: int, index: int, key: bytes) -> None:
        """Gives a complete block of a slot its key, so that it can be cached."""
        if not self._keep:
            return
        for g, group in enumerate(self._groups):
            if index >= self._trimmed[g][slot]:
                self.tables[g][slot, index] = group.name(int(self.tables[g][slot, index]), key)

    def release(self, slot: int) -> None:
        """Releases all blocks of a slot, the last first: beginnings, which more prompts share, stay longer."""
        for g, group in enumerate(self._groups):
            for i in reversed(range(self._trimmed[g][slot], self._ends[g][slot])):
                group.release(int(self.tables[g][slot, i]))
            self.tables[g][slot] = NO_BLOCK
            self._ends[g][slot] = self._trimmed[g][slot] = 0

    def _first_seen(self, g: int, cached: int) -> int:
        """The first block that the token at position `cached` sees, or a later one."""
        window = self._windows[g]
        return 0 if window is None else max(0, cached + 1 - window) // BLOCK_TOKENS

    def _match(self, keys: Sequence[bytes]) -> int:
        """How many blocks a text can begin with: all that its next token sees must be there."""
        runs = []  # for each group and length, how many blocks up to there are present without a gap
        for group in self._groups:
            run, lengths = 0, [0]
            for key in keys:
                run = run + 1 if group.find(key) is not None else 0
                lengths.append(run)
            runs.append(lengths)
        for hits in range(len(keys), 0, -1):
            if all(run[hits] >= hits - self._first_seen(g, hits * BLOCK_TOKENS) for g, run in enumerate(runs)):
                return hits
        return 0

    def _take(self, g: int, slot: int, end: int) -> None:
        for i in range(self._ends[g][slot], -(-end // BLOCK_TOKENS)):
            self.tables[g][slot, i] = self._groups[g].take()
            self._ends[g][slot] = i + 1
