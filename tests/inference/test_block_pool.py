"""Blocks of the KV cache: used by whom, cached for whom, and none ever lost."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llm_jax.inference.engine.block_pool import BLOCK_TOKENS, BlockPool, block_keys
from llm_jax.model import NO_BLOCK

SLOTS, MAX_LEN, KEEP = 3, 8 * BLOCK_TOKENS, 4
COUNTS, WINDOWS = (12, 9), (None, 100)
TEXTS = [np.random.default_rng(seed % 2).integers(0, 9, 300).tolist() + [seed] * 190 for seed in range(4)]


class PoolMachine(RuleBasedStateMachine):
    """Sequences come, grow, end and are put back in any order, as the engine lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(COUNTS, WINDOWS, slots=SLOTS, max_len=MAX_LEN, keep=KEEP)
        self.texts: dict[int, int] = {}  # slot -> its text
        self.cached: dict[int, int] = {}
        self.written: dict[tuple[int, int], tuple[int, ...]] = {}  # (group, block) -> the text up to its end

    @rule(text=st.integers(0, 3), reserve=st.integers(0, 2))
    def admit(self, text: int, reserve: int) -> None:
        free = [slot for slot in range(SLOTS) if slot not in self.texts]
        if not free:
            return
        tokens, before = TEXTS[text], self.counts()
        cached = self.pool.admit(free[0], len(tokens), block_keys(tokens[:-1], [], ""), reserve=reserve)
        if cached is None:
            assert self.counts() == before
        else:
            self.texts[free[0]], self.cached[free[0]] = text, cached
            self.check_contents(free[0])

    @rule(slot=st.integers(0, SLOTS - 1), new=st.integers(1, 150))
    def grow(self, slot: int, new: int) -> None:
        if slot not in self.texts:
            return
        tokens, cached = TEXTS[self.texts[slot]], self.cached[slot]
        self.pool.trim(slot, cached)
        end = min(cached + new, len(tokens))
        before = self.counts()
        if not self.pool.extend(slot, end):
            assert self.counts() == before
            return
        for g, table in enumerate(self.pool.tables):
            for index in range(cached // BLOCK_TOKENS, -(-end // BLOCK_TOKENS)):
                block = int(table[slot, index])
                assert self.holders(g)[block] == 1  # what is written is not shared
                self.written[g, block] = tuple(tokens[: min(end, (index + 1) * BLOCK_TOKENS)])
        self.cached[slot] = end
        keys = block_keys(tokens, [], "")
        for index in range(cached // BLOCK_TOKENS, end // BLOCK_TOKENS):
            self.pool.name(slot, index, keys[index])
        self.check_contents(slot)

    @rule(slot=st.integers(0, SLOTS - 1))
    def release(self, slot: int) -> None:
        if self.texts.pop(slot, None) is not None:
            del self.cached[slot]
            self.pool.release(slot)

    @invariant()
    def nothing_is_lost(self) -> None:
        used = sum(len(self.holders(g)) for g in range(2))
        assert self.pool.used == used
        assert self.pool.cached <= 2 * KEEP
        if not self.texts:
            assert used == 0

    def teardown(self) -> None:
        """With everything released, one sequence can have every block of the larger group."""
        for slot in range(SLOTS):
            self.release(slot)
        assert self.pool.extend(0, MAX_LEN)

    def holders(self, g: int) -> Counter[int]:
        return Counter(int(block) for block in self.pool.tables[g].flat if block != NO_BLOCK)

    def counts(self) -> tuple[int, int]:
        return self.pool.used, self.pool.used + self.pool.cached

    def check_contents(self, slot: int) -> None:
        """Each block that the next token sees holds its own text."""
        tokens, cached = TEXTS[self.texts[slot]], self.cached[slot]
        for g, (table, window) in enumerate(zip(self.pool.tables, WINDOWS, strict=True)):
            first = 0 if window is None else max(0, cached + 1 - window)
            for index in range(first // BLOCK_TOKENS, -(-cached // BLOCK_TOKENS)):
                known = self.written[g, int(table[slot, index])]
                assert known[: (index + 1) * BLOCK_TOKENS] == tuple(tokens[: len(known)])
                assert len(known) >= min(cached, (index + 1) * BLOCK_TOKENS)


PoolMachine.TestCase.settings = settings(max_examples=300, deadline=None, derandomize=True, database=None)
test_any_order_of_events = PoolMachine.TestCase


def pool_of(blocks: int, keep: int, window: int | None = None) -> BlockPool:
    return BlockPool([blocks], [window], slots=2, max_len=blocks * BLOCK_TOKENS, keep=keep)


def compute(pool: BlockPool, slot: int, tokens: list[int]) -> None:
    assert pool.extend(slot, len(tokens))
    for index, key in enumerate(block_keys(tokens, [], "")):
        pool.name(slot, index, key)


def test_beginnings_stay_longer_than_ends_and_what_was_used_last_longest() -> None:
    pool, keys = pool_of(10, keep=3), {seed: block_keys(TEXTS[seed][:256], [], "") for seed in (0, 1)}
    for seed in (0, 1):
        compute(pool, 0, TEXTS[seed][:256])
        pool.release(0)
    assert pool.cached == 3
    assert pool.admit(0, 300, keys[0], reserve=0) == 0
    assert pool.admit(1, 300, keys[1], reserve=0) == 192


def test_two_that_compute_the_same_text_end_with_the_same_blocks() -> None:
    pool, text = pool_of(8, keep=4), TEXTS[0][:128]
    compute(pool, 0, text)
    compute(pool, 1, text)
    assert pool.tables[0][0].tolist() == pool.tables[0][1].tolist()
    assert pool.used == 2
    pool.release(0)
    assert (pool.used, pool.cached) == (2, 0)


def test_a_window_needs_only_the_blocks_that_the_next_token_sees() -> None:
    pool, keys = pool_of(8, keep=8, window=70), block_keys(TEXTS[0][:320], [], "")
    for end in range(64, 321, 64):
        pool.trim(0, end - 64)
        assert pool.extend(0, end)
        pool.name(0, end // 64 - 1, keys[end // 64 - 1])
    pool.trim(0, 320)
    assert pool.used == 2
    pool.release(0)
    for _ in range(3):  # the least recently used, the beginning, makes room
        pool.extend(1, 4 * 64)
    assert pool.admit(0, 330, keys, reserve=0) == 320


@pytest.mark.parametrize("salt", ["", "a"])
def test_keys_depend_on_all_that_comes_before_and_on_the_salt(salt: str) -> None:
    keys = block_keys(TEXTS[0], [], salt)
    assert len(keys) == len(TEXTS[0]) // BLOCK_TOKENS
    assert block_keys(TEXTS[0], keys[:3], salt) == keys[3:]
    changed = [9, *TEXTS[0][1:]]
    assert not set(block_keys(changed, [], salt)) & set(keys)
    assert not set(block_keys(TEXTS[0], [], salt + "b")) & set(keys)
