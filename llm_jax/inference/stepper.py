"""One step of the engine: what is sent to the device, and what comes back from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_jax.inference.batch import Batch
from llm_jax.inference.buckets import Buckets
from llm_jax.inference.flights import Flights
from llm_jax.inference.prefix_cache import BLOCK, block_keys
from llm_jax.inference.request import TokenEvent
from llm_jax.inference.runner import Runner
from llm_jax.inference.sampling import Choice
from llm_jax.inference.scheduler import Job, Scheduler

DRAFT = 7  # guesses of one step; eight positions cost a small batch little more than one
DRAFT_ROWS = 1  # beyond this many rows the processor is busy enough without guesses


class Stepper:
    """Moves the scheduler's jobs along on the runner's device, in one thread.

    Args:
        use_cache: False computes each job's whole text anew for each token.
        speculate: send guesses along where a job's text repeats.

    Attributes:
        prefix_queries, prefix_hits, drafted, accepted: tokens so far, as in `EngineStats`.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, buckets: Buckets, *, use_cache: bool, speculate: bool
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._buckets = buckets
        self._use_cache = use_cache
        self._draft = DRAFT if speculate and use_cache else 0
        self._flights = Flights()
        self.prefix_queries = self.prefix_hits = self.drafted = self.accepted = 0

    def step(self) -> bool:
        """Sends the next work to the device and hands out what it finished. False when nothing is left to do."""
        try:
            for job in self._scheduler.admit():
                self._seat(job)
            self._close_ranks()
            sent = self._prefill() + self._decode()
            self._land(keep=sent if self._runs_ahead() else 0)
        except Exception as error:
            self._fail(error)
        return self.has_work

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._flights)

    def warmup(self) -> None:
        """Compiles every program that a job can need, and times it."""
        self._runner.compile(self._draft, DRAFT_ROWS)
        for chunk, context in self._buckets.all_prefills():
            hidden = self._runner.prefill(0, [0] * chunk, max(0, context - chunk), chunk)
            self._flights.send(("prefill", chunk, context), hidden)
            self._land(keep=0)
        for rows, context in self._buckets.all_decodes():
            self._flights.send(("decode", rows, 0, context), self._runner.decode(Batch.of(rows, range(rows)), context))
            self._land(keep=0)

    def _seat(self, job: Job) -> None:
        """Sets up a job's row, with what the prefix cache has of its prompt."""
        request = job.request
        if self._runner.prefixes.blocks:
            job.block_keys = block_keys(request.prompt_ids, request.salt)
        job.held = self._runner.seat(job.row, request, job.seed, job.block_keys)
        job.saved = job.held // BLOCK
        self.prefix_queries += len(request.prompt_ids)
        self.prefix_hits += job.held
        job.on_admit(job.held)

    def _close_ranks(self) -> None:
        moved = self._scheduler.close_ranks(self._buckets.batch)
        if moved is not None:
            self._runner.move(*moved)

    def _prefill(self) -> int:
        """Sends the next chunk of the oldest prompt; says how many flights that made."""
        job = self._scheduler.next_prompt()
        if job is None:
            return 0
        left = len(job.tokens) - job.held
        chunk = self._buckets.chunk(left, self._largest_chunk(job.held))
        tokens = job.tokens[job.held : job.held + chunk]
        context = self._buckets.context(job.held + chunk)
        result: Any = self._runner.prefill(job.row, tokens, job.held, chunk)
        job.is_prefilled = len(tokens) == left
        job.held += len(tokens)
        if job.is_prefilled:
            job.asked += 1
            result = self._runner.first_token(job.row, result, self._masks([job]).get(job.row))
        self._flights.send(("prefill", chunk, context), result, [(job, 0)] if job.is_prefilled else [])
        while job.saved < len(job.block_keys) and (job.saved + 1) * BLOCK <= job.held:
            self._runner.keep_block(job.row, job.saved, job.block_keys[job.saved])
            job.saved += 1
        return 1

    def _largest_chunk(self, held: int) -> int:
        """How much of a prompt may be computed in this step: all that fits, unless other streams wait for it."""
        ready = self._scheduler.ready()
        if not ready or not self._use_cache:
            return self._buckets.chunks[-1]
        programs = {n: ("prefill", n, self._buckets.context(held + n)) for n in self._buckets.chunks}
        decode = ("decode", self._rows(ready), 0, self._buckets.program_context(max(job.held for job in ready) + 1))
        return self._flights.pace.chunk(programs, decode)

    def _decode(self) -> int:
        """Sends one step for every row that is past its prompt; says how many flights are then under way."""
        if not self._use_cache:
            return 0
        if self._may_guess() or not self._runs_ahead():
            self._land(keep=0)  # guesses and grammars start from the last token
        ready = self._scheduler.ready()
        if not ready:
            return 0
        drafts, masks = self._drafts(ready), self._masks(ready)
        rows, draft = (DRAFT_ROWS, self._draft) if drafts else (self._rows(ready), 0)
        context = self._buckets.program_context(max(job.held for job in ready) + 1 + draft)
        batch = Batch.of(rows, [job.row for job in ready], drafts=drafts, draft=draft, masks=masks)
        result = self._runner.decode(batch, context)
        for job in ready:
            job.held += 1
            job.asked += 1
        self._flights.send(("decode", rows, draft, context), result, [(job, job.row) for job in ready])
        if draft:
            self._land(keep=0)  # how far each row got is known only now
        return 1

    def _rows(self, jobs: Sequence[Job]) -> int:
        """The size of the batch that reaches all these jobs."""
        return self._buckets.batch(max(job.row for job in jobs) + 1)

    def _may_guess(self) -> bool:
        running = self._scheduler.running
        if not self._draft or any(job.row >= DRAFT_ROWS for job in running):
            return False
        return any(job.lookup.draft(1) for job in running)

    def _drafts(self, ready: Sequence[Job]) -> dict[int, list[int]]:
        """Guesses by row, where there are any."""
        if not self._may_guess() or not self._runs_ahead():
            return {}
        room = {job.row: min(self._draft, self._buckets.max_len - job.held - 1) for job in ready}
        drafts = {job.row: guess for job in ready if (guess := job.lookup.draft(room[job.row]))}
        self.drafted += sum(map(len, drafts.values()))
        return drafts

    def _runs_ahead(self) -> bool:
        """Whether the next step can be sent before this one's tokens are known."""
        return self._use_cache and all(job.request.mask is None for job in self._scheduler.running)

    def _masks(self, jobs: Sequence[Job]) -> dict[int, np.ndarray]:
        """What grammars allow next, by row. A grammar that fails ends its own job alone."""
        masks = {}
        for job in jobs:
            try:
                mask = None if job.request.mask is None else job.request.mask(job.generated)
            except Exception as error:
                self._end(job, error)
                continue
            if mask is not None:
                masks[job.row] = mask
        return masks

    def _land(self, keep: int) -> None:
        """Waits for the oldest steps, until `keep` are left under way, and hands out their tokens."""
        for result, awaited in self._flights.land(keep):
            for job, index in awaited:
                guessed = int(result.emitted_B[index]) - 1
                job.held += guessed
                job.asked += guessed
                self.accepted += guessed
                for position in range(1 + guessed):
                    if not job.is_over:
                        self._hand_out(job, result.choices, (position, index))

    def _hand_out(self, job: Job, choices: Choice, at: tuple[int, int]) -> None:
        """Tells a job's listener of a token, and ends the job where it must."""
        token = int(choices.token_B[at])
        finish = job.take(token)
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        wanted = job.request.sampling.logprobs
        if wanted is not None:
            logprob = float(choices.logprob_B[at])
            pairs = zip(choices.top_BA[at].tolist(), choices.top_logprob_BA[at].tolist(), strict=True)
            top = tuple(pairs)[:wanted]
        if not self._use_cache:
            job.held, job.is_prefilled = 0, False  # from the start again
        event = TokenEvent(token, logprob, top, finish)
        if finish is None:
            job.on_event(event)
        else:
            self._end(job, event)

    def _end(self, job: Job, last: TokenEvent | Exception) -> None:
        """Frees a job's place, then tells its listener, unless it was cancelled meanwhile."""
        if self._scheduler.end(job):
            job.on_event(last)

    def _fail(self, error: Exception) -> None:
        """A step broke: its donated state is gone. Every running request hears why, and the engine starts clean."""
        self._flights.clear()
        self._runner.reset()
        for job in self._scheduler.running:
            self._end(job, error)
