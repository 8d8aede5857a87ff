"""The batching engine: requests in, tokens out. No text, no HTTP.

`step` is the whole machine: admit what waits, send one chunk of a prompt and one decode step for every row that is
past its prompt to the device, and hand out the tokens of the step before. It runs in the caller's thread, or in the
engine's own after `start`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import product

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.inference.pace import Pace
from llm_jax.inference.prefix_cache import BLOCK, PrefixCache, block_keys
from llm_jax.inference.request import Job, OnEvent, Request, TokenEvent
from llm_jax.inference.sampling import Choice, SamplingParams, row_settings
from llm_jax.inference.state import EngineState, StepResult, admit, decode, init_state, move_row, prefill
from llm_jax.kernels import Kind
from llm_jax.model import KVCache, Model, cache_sharding, cast_model, shard_params

# Buckets grow by fours: every one is a program to compile before the first request.
CHUNKS = (16, 64, 256)  # a prompt is cut into the largest that fit, and its end is padded to the smallest
SMALLEST_CONTEXT = 128  # attention runs over 128, 512, 2048 … places, up to max_len
SMALLEST_BATCH = 2  # rows are computed by 2, 8, 32 …: XLA's fast bfloat16 and int8 products begin at two rows
DRAFT = 7  # guesses of one step; eight positions cost a small batch little more than one
DRAFT_ROWS = 2  # beyond this many rows the processor is busy enough without guesses


@dataclass(frozen=True)
class EngineStats:
    """running and waiting requests; tokens held of tokens that fit; programs compiled so far in this process."""

    running: int
    waiting: int
    slots: int
    kv_tokens: int
    kv_capacity: int
    prefix_queries: int
    prefix_hits: int
    compilations: int


@dataclass(frozen=True)
class _Flight:
    """A step that the device is working on: which jobs await which row of its result."""

    program: Hashable
    sent_at: float
    result: StepResult
    awaited: list[tuple[Job, int]]


class Engine:
    """Continuous batching of requests over one model.

    Memory is fixed at the start: `max_batch` rows of `max_len` tokens. A request is admitted when a row is free and
    then always fits, so a running request is never put off; the others wait in order of arrival.

    Args:
        model: its weights are cast and packed once, see `cast_model`.
        max_batch: how many requests run at a time.
        max_len: tokens a request may hold, prompt and generated; the model's max_seq_len unless given.
        dtype: what weights are kept in. Keys and values are cached in float32 with float32 weights, else in bfloat16.
        use_cache: False computes the whole sequence anew for each token. Slow; the oracle of the cached path, and
            the only way for a model that is not causal (each new token changes what earlier ones see).
        prefix_tokens: how many tokens of shared prompt beginnings to keep across requests; 0 keeps none.
        speculate: guess tokens where a request's text repeats. The tokens stay the same.
        mesh: spread weights and caches over these devices (`tensor_parallel_mesh`).
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 8,
        max_len: int | None = None,
        dtype: Kind = "float32",
        use_cache: bool = True,
        prefix_tokens: int = 0,
        speculate: bool = True,
        mesh: Mesh | None = None,
    ) -> None:
        model, self.dtype = cast_model(model, dtype, packed=False if mesh is not None else None)
        self.config, self._params = model.config, model.params
        self.max_batch = max_batch
        self.max_len = min(max_len or model.config.max_seq_len, model.config.max_seq_len)
        self._cache_dtype = "float32" if dtype == "float32" else "bfloat16"
        self.use_cache = use_cache and model.config.is_causal
        # A chunk of a model that is not causal must hold the whole sequence.
        self._chunks = CHUNKS if self.config.is_causal else (self.max_len,)
        self._draft = DRAFT if speculate and self.use_cache else 0
        self.mesh = mesh
        if mesh is not None:
            self._params = shard_params(self._params, mesh)
        self._state = self._empty_state()
        blocks = prefix_tokens // BLOCK if self.use_cache else 0
        self._prefixes = PrefixCache(self.config, blocks, self._cache_dtype) if blocks else None
        self._pace = Pace()
        self._free_at = 0.0  # when the device finished its last step
        self._flights: deque[_Flight] = deque()

        self._waiting: deque[Job] = deque()
        self._rows: list[Job | None] = [None] * max_batch
        self._cancelled: set[int] = set()
        self._next_ticket = 0
        self._prefix_queries = self._prefix_hits = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(self, request: Request, on_event: OnEvent, on_admit: Callable[[], None] = lambda: None) -> int:
        """Queues a request and returns its ticket. Thread-safe.

        `on_admit` is called when the request gets a row; `on_event` receives each token, or the exception that
        ended the request. Both are called in the thread that steps.

        Raises:
            RequestError: the request does not pass `validate`.
        """
        self.validate(request)
        job = Job(-1, request, on_event, on_admit)
        with self._changed:
            job.ticket = self._next_ticket
            self._next_ticket += 1
            self._waiting.append(job)
            self._changed.notify_all()
        return job.ticket

    def validate(self, request: Request) -> None:
        """Raises RequestError if this engine cannot run the request."""
        request.check(self.config.vocab_size, self.max_len)

    def cancel(self, ticket: int) -> None:
        """Forgets a request and frees its place before the next step; it gets no further events. Thread-safe."""
        with self._changed:
            self._cancelled.add(ticket)
            self._changed.notify_all()

    def step(self) -> bool:
        """Sends the next work to the device and hands out what it finished. False when nothing is left to do."""
        with self._changed:
            self._drop_cancelled()
            admitted = self._admit()
        try:
            for job in admitted:
                self._seat(job)
            self._close_ranks()
            before = len(self._flights)
            self._prefill_step()
            self._decode_step()
            sent = max(0, len(self._flights) - before)  # guessing lands what was under way
            self._land(keep=sent if self._runs_ahead() else 0)
        except Exception as error:
            self._fail(error)
        with self._changed:
            return self._has_work()

    def start(self) -> None:
        """Steps in a background thread whenever there is work, until `close`."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="llm-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the background thread after the step it is in; what still runs gets no further events."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def warmup(self) -> None:
        """Compiles every program that a request can need, and times it. Call it before the first request."""
        starts = range(0, self.max_len, self._chunks[0])
        chunks = sorted({(n, self._context(start + n)) for start in starts for n in self._chunks})
        contexts = sorted({self._context(n) for n in range(1, self.max_len + 1)})
        batches = sorted({self._batch(n) for n in range(1, self.max_batch + 1)}) if self.use_cache else []
        for _ in ("compile", "time"):
            for chunk, context in chunks:
                self._send_prefill(None, 0, np.zeros(chunk, np.int32), 0, 1, True, None, context)
                self._land(keep=0)
            for context, rows in product(contexts, batches):
                for K in {0, self._draft if rows <= DRAFT_ROWS else 0}:
                    idle, no_counts = np.zeros(rows, bool), np.zeros(rows, np.int32)
                    self._send_decode([], idle, np.zeros((rows, K), np.int32), no_counts, None, context)
                    self._land(keep=0)
        zero = np.int32(0)
        self._state = move_row(self._state, zero, zero)
        if self._prefixes is not None:
            self._state = self._prefixes.warmup(self._state)
        nothing = row_settings(SamplingParams(temperature=0.0), (), 0, self.config.vocab_size)
        self._state = admit(self._state, zero, zero, nothing)
        self._state.last_B.block_until_ready()

    @property
    def stats(self) -> EngineStats:
        programs = (admit, prefill, decode, move_row)
        with self._changed:
            running = [job for job in self._rows if job is not None]
            return EngineStats(
                running=len(running),
                waiting=len(self._waiting),
                slots=self.max_batch,
                kv_tokens=sum(job.held for job in running),
                kv_capacity=self.max_batch * self.max_len,
                prefix_queries=self._prefix_queries,
                prefix_hits=self._prefix_hits,
                compilations=sum(f._cache_size() for f in programs),  # type: ignore[attr-defined]
            )

    # ---- places ----

    def _drop_cancelled(self) -> None:
        for row, job in enumerate(self._rows):
            if job is not None and job.ticket in self._cancelled:
                job.is_over = True
                self._rows[row] = None
        self._waiting = deque(job for job in self._waiting if job.ticket not in self._cancelled)
        self._cancelled.clear()

    def _admit(self) -> list[Job]:
        """Gives the lowest free rows to the longest-waiting requests."""
        admitted = []
        for row in range(self.max_batch):
            if self._rows[row] is None and self._waiting:
                job = self._waiting.popleft()
                job.row = row
                self._rows[row] = job
                admitted.append(job)
        return admitted

    def _seat(self, job: Job) -> None:
        """Sets up a job's row, with what the prefix cache has of its prompt."""
        job.on_admit()
        if self._prefixes is not None:
            keys = block_keys(job.request.prompt_ids, job.request.salt)
            self._state, job.held = self._prefixes.load(self._state, job.row, keys)
            job.saved = job.held // BLOCK
            self._prefix_queries += len(job.request.prompt_ids)
            self._prefix_hits += job.held
        settings = row_settings(job.request.sampling, job.request.prompt_ids, job.seed, self.config.vocab_size)
        self._state = admit(self._state, np.int32(job.row), np.int32(job.held), settings)

    def _close_ranks(self) -> None:
        """Moves the last row into a gap where that lets the batch be computed in a smaller bucket."""
        live = [row for row, job in enumerate(self._rows) if job is not None]
        if not live or self._batch(len(live)) == self._batch(live[-1] + 1):
            return
        source, target = live[-1], self._rows.index(None)
        job = self._rows[source]
        assert job is not None
        self._state = move_row(self._state, np.int32(source), np.int32(target))
        with self._changed:
            self._rows[source], self._rows[target], job.row = None, job, target

    # ---- one step ----

    def _prefill_step(self) -> None:
        """Sends the next chunk of the oldest request that is still in its prompt."""
        pending = [job for job in self._rows if job is not None and not self._is_ready(job) and job.wants_more]
        if not pending:
            return
        job = min(pending, key=lambda job: job.ticket)
        ready = [other for other in self._rows if other is not None and self._is_ready(other)]
        largest = self._pace.chunk(self._chunks, ("decode", self._batch(len(ready)))) if ready else self._chunks[-1]
        sequence = job.sequence
        left = len(sequence) - job.held
        size = max((n for n in self._chunks if n <= min(left, largest)), default=self._chunks[0])
        tokens = sequence[job.held : job.held + size]
        chunk = np.zeros(size, np.int32)
        chunk[: len(tokens)] = tokens
        is_last = job.held + len(tokens) == len(sequence)
        mask = None if job.request.mask is None or not is_last else job.request.mask(job.generated)
        self._send_prefill(
            job if is_last else None, job.row, chunk, job.held, len(tokens), is_last,
            None if mask is None else mask[None], self._context(job.held + len(chunk)),
        )  # fmt: skip
        job.held += len(tokens)
        job.asked += is_last
        self._save_prefix(job)

    def _decode_step(self) -> None:
        """Sends one step for every row that is past its prompt."""
        running = [job for job in self._rows if job is not None]
        few = self._draft and self._batch(max((job.row for job in running), default=0) + 1) <= DRAFT_ROWS
        if (few and any(job.lookup.draft(1) for job in running)) or not self._runs_ahead():
            self._land(keep=0)  # guesses and grammars start from the last token
        ready = [job for job in self._rows if job is not None and self._is_ready(job) and job.wants_more]
        if not ready:
            return
        rows = self._batch(max(job.row for job in ready) + 1)
        active = np.zeros(rows, bool)
        active[[job.row for job in ready]] = True
        drafts, counts = self._drafts(ready, rows)
        context = self._context(max(job.held for job in ready) + 1 + drafts.shape[1])
        self._send_decode(ready, active, drafts, counts, self._allowed(ready, rows), context)
        for job in ready:
            job.held += 1
            job.asked += 1

    def _drafts(self, ready: list[Job], rows: int) -> tuple[np.ndarray, np.ndarray]:
        counts = np.zeros(rows, np.int32)
        none = np.zeros((rows, 0), np.int32)
        if not self._draft or rows > DRAFT_ROWS or any(job.request.mask for job in ready):
            return none, counts
        drafts = np.zeros((rows, self._draft), np.int32)
        for job in ready:
            room = min(self._draft, self.max_len - job.held - 1)
            guess = job.lookup.draft(room)
            drafts[job.row, : len(guess)] = guess
            counts[job.row] = len(guess)
        return (drafts, counts) if counts.any() else (none, counts)

    def _is_ready(self, job: Job) -> bool:
        """Whether the device has, or is about to have, the whole prompt and the token to feed next."""
        return self.use_cache and job.asked > 0

    def _runs_ahead(self) -> bool:
        """Whether the next step can be sent before this one's tokens are known."""
        running = [job for job in self._rows if job is not None]
        return self.use_cache and not any(job.request.mask for job in running)

    def _allowed(self, ready: list[Job], rows: int) -> np.ndarray | None:
        if all(job.request.mask is None for job in ready):
            return None
        allowed = np.ones((rows, self.config.vocab_size), bool)
        for job in ready:
            mask = None if job.request.mask is None else job.request.mask(job.generated)
            if mask is not None:
                allowed[job.row] = mask
        return allowed

    def _save_prefix(self, job: Job) -> None:
        if self._prefixes is None:
            return
        keys = block_keys(job.request.prompt_ids, job.request.salt)
        while job.saved < len(keys) and (job.saved + 1) * BLOCK <= job.held:
            self._prefixes.save(self._state, job.row, job.saved, keys[job.saved])
            job.saved += 1

    def _send_prefill(
        self,
        job: Job | None,
        row: int,
        tokens: np.ndarray,
        start: int,
        length: int,
        is_last: bool,
        allowed: np.ndarray | None,
        context: int,
    ) -> None:
        sent_at = time.perf_counter()
        self._state, result = prefill(
            self.config, self._params, self._state, np.int32(row), tokens, np.int32(start), np.int32(length),
            np.bool_(is_last), allowed, dtype=self.dtype, context=context, mesh=self.mesh,
        )  # fmt: skip
        self._flights.append(_Flight(len(tokens), sent_at, result, [] if job is None else [(job, 0)]))

    def _send_decode(
        self,
        ready: list[Job],
        active: np.ndarray,
        drafts: np.ndarray,
        counts: np.ndarray,
        allowed: np.ndarray | None,
        context: int,
    ) -> None:
        sent_at = time.perf_counter()
        self._state, result = decode(
            self.config, self._params, self._state, active, drafts, counts, allowed,
            dtype=self.dtype, context=context, mesh=self.mesh,
        )  # fmt: skip
        program = ("decode", len(active), drafts.shape[1])[: 3 if drafts.shape[1] else 2]
        self._flights.append(_Flight(program, sent_at, result, [(job, job.row) for job in ready]))
        if drafts.shape[1]:
            self._land(keep=0)  # how far each row got is known only now

    def _land(self, keep: int) -> None:
        """Waits for the oldest steps, until `keep` are left under way, and hands out their tokens."""
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            result = jax.tree.map(np.asarray, flight.result)
            now = time.perf_counter()
            self._pace.note(flight.program, now - max(self._free_at, flight.sent_at))
            self._free_at = now
            for job, index in flight.awaited:
                emitted = int(result.emitted_B[index])
                job.held += emitted - 1
                job.asked += emitted - 1
                for position in range(emitted):
                    if not job.is_over:
                        self._hand_out(job, result.choices, (position, index))

    def _hand_out(self, job: Job, choices: Choice, at: tuple[int, int]) -> None:
        """Tells a job's listener of a token, and ends the job where it must."""
        finish = job.take(int(choices.token_B[at]))
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        wanted = job.request.sampling.logprobs
        if wanted is not None:
            logprob = float(choices.logprob_B[at])
            pairs = zip(choices.top_BA[at].tolist(), choices.top_logprob_BA[at].tolist(), strict=True)
            top = tuple(pairs)[:wanted]
        with self._changed:
            if job.ticket in self._cancelled:
                return
            if finish is not None:
                job.is_over = True
                self._rows[job.row] = None
        if not self.use_cache:
            job.held = 0  # from the start again
        job.on_event(TokenEvent(job.generated[-1], logprob, top, finish))

    def _batch(self, rows: int) -> int:
        return min(_bucket(rows, SMALLEST_BATCH), self.max_batch)

    def _context(self, tokens: int) -> int:
        return min(_bucket(tokens, SMALLEST_CONTEXT), self.max_len)

    # ---- around the steps ----

    def _empty_state(self) -> EngineState:
        state = init_state(self.config, self.max_batch, self.max_len, self._cache_dtype, self._chunks[-1])
        if self.mesh is None:
            return state
        kv = (state.cache.keys, state.cache.values)
        keys, values = jax.device_put(kv, cache_sharding(self.config, self.mesh))
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        last_B, rows, length_B = jax.device_put((state.last_B, state.rows, state.cache.length_B), everywhere)
        return EngineState(KVCache(keys, values, length_B), last_B, rows)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._cancelled or self._flights or any(self._rows))

    def _fail(self, error: Exception) -> None:
        """A step broke: its donated state is gone. Every running request hears why, and the engine starts clean."""
        with self._changed:
            running = [job for job in self._rows if job is not None]
            self._rows = [None] * self.max_batch
        self._flights.clear()
        self._state = self._empty_state()
        for job in running:
            job.is_over = True
            job.on_event(error)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._has_work())
                if self._closing:
                    return
            self.step()


def _bucket(n: int, smallest: int) -> int:
    """The least of smallest, 4 · smallest, 16 · smallest … that is at least n."""
    bucket = smallest
    while bucket < n:
        bucket *= 4
    return bucket
