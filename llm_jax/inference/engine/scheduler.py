"""Who has a row of the batch and who waits for one. Knows nothing of the device.

The rule of memory: a row has room for `max_len` tokens from the start on, and no request is let in whose prompt and
completion could outgrow that. So a request that has a row always finishes; nothing is ever put off half-way. The rule
of order: first come, first served, for rows and for prompts alike.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_jax.inference.engine.lookup import PromptLookup
from llm_jax.inference.engine.request import FinishReason, OnEvent, Request


@dataclass(eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        on_admit: is told how many tokens of the prompt need not be computed.
        row: its place in the batch, -1 before it has one.
        tokens: the prompt and what has arrived of the completion.
        held: tokens that its row holds, counting steps that are still under way.
        asked: tokens asked of the device so far, counting the same.
        is_prefilled: the device has, or is about to have, the whole prompt.
        block_keys: names of the prompt's blocks; the first `saved` of them are in the prefix cache.
        is_over: finished, failed or cancelled; tokens under way for it are dropped.
    """

    request: Request
    on_event: OnEvent
    on_admit: Callable[[int], None]
    ticket: int = -1
    row: int = -1
    held: int = 0
    asked: int = 0
    is_prefilled: bool = False
    block_keys: list[bytes] = field(default_factory=list)
    saved: int = 0
    is_over: bool = False

    def __post_init__(self) -> None:
        seed = self.request.sampling.seed
        self.seed = secrets.randbits(63) if seed is None else seed
        self.tokens = list(self.request.prompt_ids)
        self.lookup = PromptLookup(self.tokens)

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt_ids) :]

    @property
    def wants_more(self) -> bool:
        return not self.is_over and self.asked < self.request.sampling.max_new_tokens

    def take(self, token: int) -> FinishReason | None:
        """Notes a token that arrived; says whether the request ends with it."""
        self.tokens.append(token)
        sampling = self.request.sampling
        if token in sampling.stop_ids:
            return "stop"
        is_full = len(self.tokens) - len(self.request.prompt_ids) >= sampling.max_new_tokens
        return "length" if is_full else None


class Scheduler:
    """Rows and the line for them. Thread-safe.

    Attributes:
        rows: the job in each row.
        waiting: jobs without a row, oldest first.
        changed: the lock; notified when a job arrives.
    """

    def __init__(self, rows: int) -> None:
        self.rows: list[Job | None] = [None] * rows
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self._by_ticket: dict[int, Job] = {}
        self._next_ticket = 0

    @property
    def running(self) -> list[Job]:
        return [job for job in self.rows if job is not None]

    @property
    def has_work(self) -> bool:
        return bool(self._by_ticket)

    def submit(self, job: Job) -> int:
        """Puts a job in line; gives its ticket."""
        with self.changed:
            job.ticket = self._next_ticket
            self._next_ticket += 1
            self._by_ticket[job.ticket] = job
            self.waiting.append(job)
            self.changed.notify_all()
        return job.ticket

    def cancel(self, ticket: int) -> None:
        """Ends a job wherever it is; a ticket whose job has ended already means nothing."""
        with self.changed:
            job = self._by_ticket.get(ticket)
            if job is not None:
                self.end(job)

    def end(self, job: Job) -> bool:
        """Frees what a job has; False where that was done before."""
        with self.changed:
            if job.is_over:
                return False
            job.is_over = True
            del self._by_ticket[job.ticket]
            if job.row < 0:
                self.waiting.remove(job)
            else:
                self.rows[job.row] = None
            return True

    def admit(self) -> list[Job]:
        """Gives the lowest free rows to the jobs that have waited longest."""
        admitted = []
        with self.changed:
            for row, job in enumerate(self.rows):
                if job is None and self.waiting:
                    self.rows[row] = newcomer = self.waiting.popleft()
                    newcomer.row = row
                    admitted.append(newcomer)
        return admitted

    def close_ranks(self, bucket: Callable[[int], int]) -> tuple[int, int] | None:
        """Moves the last job into a gap, (from, to), where its row alone keeps the batch in a larger bucket."""
        with self.changed:
            running = self.running
            if not running or bucket(len(running)) == bucket(running[-1].row + 1):
                return None
            job = running[-1]
            source, target = job.row, self.rows.index(None)
            self.rows[source], self.rows[target], job.row = None, job, target
            return source, target

    def prompts(self) -> list[Job]:
        """The jobs whose prompts are not computed yet, oldest first."""
        return sorted((job for job in self.running if not job.is_prefilled), key=lambda job: job.ticket)

    def ready(self) -> list[Job]:
        """The jobs that take part in the next decode step."""
        return [job for job in self.running if job.is_prefilled and job.wants_more]
