"""Admission and first-come-first-served scheduling of requests onto batch slots. Independent of the device.

Memory: a slot of the KV cache holds `max_len` tokens from the start on, and a request whose prompt and completion
could exceed that is refused. So an admitted request always finishes; none is preempted. Order: first come, first
served, for slots and for prefill alike.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_jax.inference.engine.prompt_lookup import PromptLookup
from llm_jax.inference.engine.request import FinishReason, OnEvent, Request


@dataclass(eq=False)
class SequenceState:
    """One request's sequence, its prompt and what is generated, from submission to its end.

    Attributes:
        on_admit: called with the number of prompt tokens that the prefix cache had.
        slot: its batch slot, -1 while it waits.
        tokens: the prompt and the collected tokens of the completion.
        cached: length in the KV cache, in-flight steps included.
        sampled: tokens that the device has sampled or is about to, in-flight steps included.
        is_prefilled: the whole prompt has been dispatched.
        block_keys: prefix-cache keys of the prompt's blocks; the first `saved_blocks` of them are stored.
        has_ended: finished, failed or cancelled; its tokens in flight are dropped.
    """

    request: Request
    on_event: OnEvent
    on_admit: Callable[[int], None]
    request_id: int = -1
    slot: int = -1
    cached: int = 0
    sampled: int = 0
    is_prefilled: bool = False
    block_keys: list[bytes] = field(default_factory=list)
    saved_blocks: int = 0
    has_ended: bool = False

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
        return self.is_prefilled and not self.has_ended and self.sampled < self.request.sampling.max_new_tokens

    def append(self, token: int) -> FinishReason | None:
        """Adds a collected token; returns the reason if the request finishes with it."""
        self.tokens.append(token)
        sampling = self.request.sampling
        if token in sampling.stop_ids:
            return "stop"
        is_full = len(self.tokens) - len(self.request.prompt_ids) >= sampling.max_new_tokens
        return "length" if is_full else None


class Scheduler:
    """The batch slots and the queue for them. Thread-safe.

    Attributes:
        slots: the sequence in each slot.
        waiting: the queue, oldest first.
        changed: the lock; notified when a request arrives.
    """

    def __init__(self, slots: int) -> None:
        self.slots: list[SequenceState | None] = [None] * slots
        self.waiting: deque[SequenceState] = deque()
        self.changed = threading.Condition()
        self._by_id: dict[int, SequenceState] = {}
        self._next_id = 0

    @property
    def running(self) -> list[SequenceState]:
        """In order of their slots."""
        return [sequence for sequence in self.slots if sequence is not None]

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def submit(self, sequence: SequenceState) -> int:
        """Appends a sequence to the queue; returns its request id."""
        with self.changed:
            sequence.request_id = self._next_id
            self._next_id += 1
            self._by_id[sequence.request_id] = sequence
            self.waiting.append(sequence)
            self.changed.notify_all()
        return sequence.request_id

    def cancel(self, request_id: int) -> None:
        """Ends a waiting or running request; does nothing if it has ended already."""
        with self.changed:
            sequence = self._by_id.get(request_id)
            if sequence is not None:
                self.end(sequence)

    def end(self, sequence: SequenceState) -> bool:
        """Frees a sequence's slot, or removes it from the queue. False if it had ended before."""
        with self.changed:
            if sequence.has_ended:
                return False
            sequence.has_ended = True
            del self._by_id[sequence.request_id]
            if sequence.slot < 0:
                self.waiting.remove(sequence)
            else:
                self.slots[sequence.slot] = None
            return True

    def admit(self) -> list[SequenceState]:
        """Assigns the lowest free slots to the sequences that have waited longest; returns these."""
        admitted = []
        with self.changed:
            for slot, occupant in enumerate(self.slots):
                if occupant is None and self.waiting:
                    self.slots[slot] = sequence = self.waiting.popleft()
                    sequence.slot = slot
                    admitted.append(sequence)
        return admitted

    def compact(self, batch_size: Callable[[int], int]) -> tuple[int, int] | None:
        """Moves the last sequence into the lowest free slot where that makes the decode batch smaller.

        Args:
            batch_size: the batch that is computed for so many slots (`Buckets.batch`).

        Returns:
            The slots that it moved from and to; None if it stays.
        """
        with self.changed:
            running = self.running
            if not running or batch_size(len(running)) == batch_size(running[-1].slot + 1):
                return None
            last = running[-1]
            source, target = last.slot, self.slots.index(None)
            self.slots[source], self.slots[target], last.slot = None, last, target
            return source, target

    def prefilling(self) -> list[SequenceState]:
        """The sequences whose prompt is not completely dispatched, oldest first."""
        return sorted((s for s in self.running if not s.is_prefilled), key=lambda s: s.request_id)

    def decoding(self) -> list[SequenceState]:
        """The sequences whose next token the next step samples."""
        return [sequence for sequence in self.running if sequence.is_decoding]
