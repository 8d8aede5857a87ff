"""One step of the engine: what is sent to the device, and what comes back from it."""

from collections.abc import Sequence

import numpy as np

from llm_jax.inference.engine.buckets import Buckets, Shape
from llm_jax.inference.engine.flights import Flights
from llm_jax.inference.engine.prefix_cache import BLOCK, block_keys
from llm_jax.inference.engine.request import TokenEvent
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.sampling import Choice
from llm_jax.inference.engine.scheduler import Job, Scheduler
from llm_jax.inference.engine.shares import LAST, Share, rehearsal, runs


class Stepper:
    """Moves the scheduler's jobs along on the runner's device, in one thread.

    Args:
        use_cache: False computes each job's whole text anew for each token.

    Attributes:
        prefix_queries, prefix_hits, drafted, accepted: tokens so far, as in `EngineStats`.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, buckets: Buckets, *, use_cache: bool) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._buckets = buckets
        self._use_cache = use_cache
        self._flights = Flights()
        self.prefix_queries = self.prefix_hits = self.drafted = self.accepted = 0

    def step(self) -> bool:
        """Sends the next work to the device and hands out what it finished. False when nothing is left to do."""
        try:
            for job in self._scheduler.admit():
                self._seat(job)
            self._close_ranks()
            if self._may_guess() or not self._runs_ahead():
                self._land(keep=0)  # guesses and grammars start from the last token
            under_way = self._send()
            self._land(keep=under_way if self._runs_ahead() else 0)
        except Exception as error:
            self._fail(error)
        return self.has_work

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._flights)

    def warmup(self) -> None:
        """Compiles every program that a job can need, and times it."""
        self._runner.compile()
        for shape in self._buckets.all_shapes():
            self._flights.send(shape, self._runner.run(rehearsal(shape)))
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

    def _send(self) -> int:
        """Sends what every job does next; says how many flights may stay under way."""
        decoding = {job: self._next(job) for job in (self._scheduler.ready() if self._use_cache else ())}
        prompts = self._pieces(list(decoding.values()))
        jobs = {share.row: job for job, share in (*decoding.items(), *prompts.items())}
        made = runs(self._buckets, [*decoding.values()], [*prompts.values()])
        for run in made:
            awaited = [(jobs[share.row], share.row - run.first) for share in run.shares if share.is_asked]
            self._flights.send(run.shape, self._runner.run(run), awaited)
        for job, share in (*decoding.items(), *prompts.items()):
            job.held += len(share.tokens) - share.guesses
            job.asked += share.is_asked
        for job, share in prompts.items():
            job.is_prefilled = share.is_asked
            while job.saved < len(job.block_keys) and (job.saved + 1) * BLOCK <= job.held:
                self._runner.keep_block(job.row, job.saved, job.block_keys[job.saved])
                job.saved += 1
        has_guesses = any(share.guesses for share in decoding.values())
        return 0 if has_guesses else len(made)  # how far guesses got is known only when they land

    def _next(self, job: Job) -> Share:
        """The step of a job that is past its prompt: its last token, and guesses where its text repeats."""
        guess: list[int] = []
        if self._may_guess() and self._runs_ahead():
            guess = job.lookup.draft(min(self._buckets.draft, self._buckets.max_len - job.held - 1))
            self.drafted += len(guess)
        return Share(job.row, job.held, [LAST, *guess], len(guess), allowed_V=self._mask(job))

    def _pieces(self, decoding: Sequence[Share]) -> dict[Job, Share]:
        """How far each prompt gets in this step: the oldest first, as many tokens as suit the streams beside it."""
        prompts = self._scheduler.prompts()
        if not prompts:
            return {}
        room = self._room(decoding, prompts)
        pieces = {}
        for job in prompts:
            tokens = job.tokens[job.held : job.held + room]
            is_last = job.held + len(tokens) == len(job.tokens)
            mask = self._mask(job) if is_last else None
            pieces[job] = Share(job.row, job.held, tokens, is_asked=is_last, allowed_V=mask)
            room -= len(tokens)
        return pieces

    def _room(self, decoding: Sequence[Share], prompts: Sequence[Job]) -> int:
        """How many tokens of prompts this step should carry."""

        def shapes(prompts: Sequence[Share]) -> list[Shape]:
            return [run.shape for run in runs(self._buckets, decoding, prompts)]

        row, start = prompts[0].row, prompts[0].held  # the others are taken to cost the same
        rooms = self._buckets.rooms(sum(len(share.tokens) for share in decoding))
        steps = {n: shapes([Share(row, start, range(n))]) for n in rooms}
        return self._flights.pace.room(steps, shapes([]), sum(len(job.tokens) - job.held for job in prompts))

    def _may_guess(self) -> bool:
        running = self._scheduler.running
        is_alone = all(job.row == 0 for job in running)  # with more rows the processor is busy enough without
        return self._buckets.draft > 0 and is_alone and any(job.lookup.draft(1) for job in running)

    def _runs_ahead(self) -> bool:
        """Whether the next step can be sent before this one's tokens are known."""
        return self._use_cache and all(job.request.mask is None for job in self._scheduler.running)

    def _mask(self, job: Job) -> np.ndarray | None:
        """What a job's grammar allows next. One that fails ends its own job alone."""
        try:
            return None if job.request.mask is None else job.request.mask(job.generated)
        except Exception as error:
            self._end(job, error)
            return None

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
