"""Which requests run: their order, admission by memory, and putting back. Independent of the device.

What is admitted finishes, or is put back, the last in the order first, with its tokens computed again later. The order
is that of arrival, of equal shares among tenants, and of priorities, all in one number: a request's turn. Turns are
counted in tokens (fair queueing, Demers, Keshav, Shenker 1989): a tenant's next request comes after as many tokens as
its last one may take, but never before the clock, which counts the tokens of an equal share by now. A step of priority
counts PRIORITY_TOKENS. The clock goes on with each request that is admitted, so nothing waits for ever. Tenants have
equal shares of the slots too (`shares`): where all are taken, one that has more than its share gives one up.
"""

import bisect
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_jax.inference.engine.adapters import AdapterSlot
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS, BlockPool, block_keys
from llm_jax.inference.engine.prompt_lookup import PromptLookup
from llm_jax.inference.engine.request import FinishReason, Request, TokenLogprob
from llm_jax.inference.engine.shares import Shares

LATELY = 60.0  # seconds
PRIORITY_TOKENS = 1 << 17  # of others' work that a request of the next priority lets pass


@dataclass(eq=False)
class SequenceState:
    """One request's sequence, its prompt and what is generated, from submission to its end.

    Attributes:
        on_admit: called with the number of prompt tokens that were in the cache already.
        adapter: what the engine has of the request's adapter; None without one.
        on_end: called once, when it has ended.
        turn: its place in the order, the least is first.
        slot: its batch slot, -1 while it waits.
        tokens: the prompt and the collected tokens of the completion.
        cached: length in the KV cache, in-flight steps included.
        sampled: tokens that the device has sampled or is about to, in-flight steps included.
        is_prefilled: all its tokens have been dispatched.
        decoded_in: the last step that had tokens of it.
        block_keys: keys of its whole blocks, as far as they were needed; `named` of them are in the pool.
        has_ended: finished, failed or cancelled; its tokens in flight are dropped.
        prompt_logprobs, hidden_sum_D: what was read off the prompt so far, where the request wants it.
    """

    request: Request
    on_event: Callable[[Any], None]  # OnEvent; of an embedding OnEmbedding
    on_admit: Callable[[int], None]
    adapter: AdapterSlot | None = None
    on_end: Callable[[], None] = lambda: None
    request_id: int = -1
    turn: tuple[int, int] = (0, 0)
    slot: int = -1
    cached: int = 0
    sampled: int = 0
    is_prefilled: bool = False
    decoded_in: int = 0
    block_keys: list[bytes] = field(default_factory=list)
    named: int = 0
    has_ended: bool = False
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    hidden_sum_D: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        seed = self.request.sampling.seed
        self.seed = secrets.randbits(63) if seed is None else seed
        self.tokens = list(self.request.prompt_ids)
        self.prompt_lookup = PromptLookup(self.tokens)

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt_ids) :]

    @property
    def is_decoding(self) -> bool:
        """Its next token can be sampled in the next step."""
        is_complete = self.request.is_embedding or self.sampled >= self.request.sampling.max_new_tokens
        return self.is_prefilled and not self.has_ended and not is_complete

    @property
    def must_go_on(self) -> bool:
        """No stop id may be the next token that the device samples."""
        return self.sampled < self.request.sampling.min_new_tokens

    def keys(self, tokens: int) -> list[bytes]:
        """Keys of the whole blocks of its first `tokens` tokens."""
        # An adapter's salt has no slash, so that no request's salt is mistaken for one of another adapter.
        salt = f"{'' if self.adapter is None else self.adapter.salt}/{self.request.salt}"
        self.block_keys += block_keys(self.tokens[:tokens], self.block_keys, salt)
        return self.block_keys

    def append(self, token: int) -> FinishReason | None:
        """Adds a collected token; returns the reason if the request finishes with it."""
        self.tokens.append(token)
        sampling = self.request.sampling
        if token in sampling.stop_ids:
            return "stop"
        is_full = len(self.tokens) - len(self.request.prompt_ids) >= sampling.max_new_tokens
        return "length" if is_full else None


class Scheduler:
    """The queue, the batch slots and the blocks of the KV cache. `submit`, `cancel` and `end` are thread-safe.

    Slots and blocks of what has ended are given back between steps: a step in preparation may still write to them.

    Attributes:
        slots: the sequence in each slot.
        waiting: the queue, in order.
        changed: the lock; notified when a request arrives.
        preemptions: how often a sequence was put back.
    """

    def __init__(self, pool: BlockPool, slots: int) -> None:
        self.slots: list[SequenceState | None] = [None] * slots
        self.waiting: list[SequenceState] = []
        self.changed = threading.Condition()
        self.pool = pool
        self.preemptions = 0
        self._shares = Shares(slots)
        self._by_id: dict[int, SequenceState] = {}
        self._next_id = 0
        self._clock = 0
        self._closed: Exception | None = None
        self._next_turn: dict[str, int] = {}  # of each tenant
        self._seen: dict[str, float] = {}  # when each tenant last submitted a request

    @property
    def running(self) -> list[SequenceState]:
        """The sequences in slots, in order."""
        return sorted((s for s in self.slots if s is not None and not s.has_ended), key=_turn)

    @property
    def has_work(self) -> bool:
        return bool(self._by_id) or any(sequence is not None for sequence in self.slots)

    def submit(self, sequence: SequenceState) -> int:
        """Puts a sequence into the queue; returns its request id. Raises the error that the queue was closed with."""
        request = sequence.request
        with self.changed:
            if self._closed is not None:
                raise self._closed
            sequence.request_id = self._next_id
            self._next_id += 1
            self._by_id[sequence.request_id] = sequence
            self._next_turn = {tenant: turn for tenant, turn in self._next_turn.items() if turn > self._clock}
            start = self._next_turn.get(request.tenant, self._clock)
            self._next_turn[request.tenant] = start + request.most_tokens
            sequence.turn = (start + PRIORITY_TOKENS * request.priority, sequence.request_id)
            bisect.insort(self.waiting, sequence, key=_turn)
            now = time.monotonic()
            self._seen = {tenant: at for tenant, at in self._seen.items() if now - at < LATELY} | {request.tenant: now}
            self.changed.notify_all()
        return sequence.request_id

    def cancel(self, request_id: int) -> None:
        """Ends a waiting or running request; does nothing if it has ended already."""
        with self.changed:
            sequence = self._by_id.get(request_id)
            if sequence is not None:
                self.end(sequence)

    def end(self, sequence: SequenceState) -> bool:
        """Takes a sequence out. False if it had ended before."""
        with self.changed:
            if sequence.has_ended:
                return False
            sequence.has_ended = True
            del self._by_id[sequence.request_id]
            if sequence.slot < 0:
                self.waiting.remove(sequence)
            self.changed.notify_all()
        sequence.on_end()
        return True

    def admit(self) -> list[SequenceState]:
        """Gives slots and blocks to the first of the queue, as long as there are both; returns these sequences.

        A block for each running sequence stays available, so that what was admitted is not put back at once.
        """
        admitted = []
        with self.changed:
            self.vacate_ended()
            while self.waiting and None in self.slots:
                sequence, slot = self._shares.next(self.waiting, self.running), self.slots.index(None)
                tokens = len(sequence.tokens)
                # The last token must be computed anyway.
                keys = [] if sequence.request.reads_prompt else sequence.keys(tokens - 1)
                cached = self.pool.admit(slot, tokens, keys, reserve=len(self.running))
                if cached is None:
                    break
                self.waiting.remove(sequence)
                self.slots[slot] = sequence
                sequence.slot, sequence.cached, sequence.named = slot, cached, cached // BLOCK_TOKENS
                self._advance(sequence)
                admitted.append(sequence)
        return admitted

    def close(self, error: Exception) -> None:
        """Ends every request with an error, and takes no more."""
        with self.changed:
            self._closed = error
            sequences = [*self._by_id.values()]
            for sequence in sequences:
                self.end(sequence)
        for sequence in sequences:
            with suppress(Exception):  # the others are to be told too
                sequence.on_event(error)

    def vacate_ended(self) -> bool:
        """Gives back the slots and blocks of what has ended; whether there were any."""
        with self.changed:
            ended = [slot for slot, sequence in enumerate(self.slots) if sequence is not None and sequence.has_ended]
            for slot in ended:
                self._vacate(slot)
        return bool(ended)

    def over_share(self) -> SequenceState | None:
        """The sequence that must be put back, so that a tenant with less than its share of the slots gets one."""
        with self.changed:
            return self._shares.excess(self.waiting, self.running) if self.waiting and None not in self.slots else None

    def put_back_last(self) -> None:
        """Puts the sequence back that is last in turn. None of its tokens may be in flight."""
        with self.changed:
            if self.running:
                self.put_back(self.running[-1])

    def put_back(self, sequence: SequenceState) -> None:
        """Takes slot and blocks of a sequence away, and puts it into the queue at its turn."""
        with self.changed:
            self._vacate(sequence.slot)
            sequence.slot, sequence.cached, sequence.is_prefilled = -1, 0, False
            bisect.insort(self.waiting, sequence, key=_turn)
            self.preemptions += 1

    def prefilling(self) -> list[SequenceState]:
        """The sequences whose text is not completely dispatched, in the order in which the next step takes them."""
        return self._shares.in_order(sequence for sequence in self.running if not sequence.is_prefilled)

    def light_tenants(self) -> set[str]:
        """The tenants that have fewer running requests than tenants have on average."""
        return self._shares.light(self.running)

    @property
    def is_shared(self) -> bool:
        """Several tenants have submitted requests lately: one that has none now may come back at any moment."""
        return len(self._seen) > 1

    def decoding(self) -> list[SequenceState]:
        """The sequences whose next token the next step samples, in order."""
        return [sequence for sequence in self.running if sequence.is_decoding]

    def _vacate(self, slot: int) -> None:
        self.slots[slot] = None
        self.pool.release(slot)

    def _advance(self, sequence: SequenceState) -> None:
        """Moves the clock on by an admitted request's share."""
        if not sequence.generated:  # otherwise it was put back, and has been counted
            tenants = {other.request.tenant for other in self._by_id.values()}
            self._clock += sequence.request.most_tokens // len(tenants)


def _turn(sequence: SequenceState) -> tuple[int, int]:
    return sequence.turn
