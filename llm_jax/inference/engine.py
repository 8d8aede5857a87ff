"""The batching engine: requests in, tokens out. No text, no HTTP.

`step` is the whole machine: admit what waits, run one chunk of a prompt, run one decode step for every row that
is past its prompt. It runs in the caller's thread, or in the engine's own after `start`.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.errors import RequestError
from llm_jax.inference.sampling import Choice, SamplingParams, row_settings
from llm_jax.inference.state import admit, decode, init_state, prefill
from llm_jax.kernels import PackedMatrix
from llm_jax.model import Model

FinishReason = Literal["stop", "length"]
SMALLEST_CHUNK = 16  # prompts are padded to powers of two from here …
LARGEST_CHUNK = 256  # … to here: a running stream waits for at most one chunk of this size between two tokens
SMALLEST_CONTEXT = 128  # attention runs over powers of two from here to max_len


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to continue, and how.

    Attributes:
        prompt_ids: at least one.
        mask: called with the ids generated so far before each choice; gives the allowed tokens as bool [V], or
            None for all (grammars).
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    mask: Callable[[Sequence[int]], np.ndarray | None] | None = None


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        logprob, top_logprobs: None and () unless the request wants them; alternatives are (id, log-probability).
        finish: set on a request's last token: "stop" at a stop id, "length" at max_new_tokens.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None


@dataclass(frozen=True)
class EngineStats:
    """running and waiting requests; tokens held of tokens that fit; programs compiled so far in this process."""

    running: int
    waiting: int
    slots: int
    kv_tokens: int
    kv_capacity: int
    compilations: int


OnEvent = Callable[[TokenEvent | Exception], None]


@dataclass(eq=False)
class _Job:
    """A request on its way: which row it has, how much of its sequence the row holds, what it generated."""

    ticket: int
    request: Request
    on_event: OnEvent
    on_admit: Callable[[], None]
    seed: int
    row: int = -1
    held: int = 0
    generated: list[int] = field(default_factory=list)

    @property
    def sequence(self) -> tuple[int, ...]:
        return (*self.request.prompt_ids, *self.generated)


class Engine:
    """Continuous batching of requests over one model.

    Args:
        model: its parameters are cast to `dtype` once if they are held in another.
        max_batch: how many requests run at a time; the others wait in order of arrival.
        max_len: tokens a request may hold, prompt and generated; the model's max_seq_len unless given.
        dtype: what to compute and cache in: "float32" or "bfloat16".
        use_cache: False computes the whole sequence anew for each token. Slow; the oracle of the cached path, and
            the only way for a model that is not causal (each new token changes what earlier ones see).
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 8,
        max_len: int | None = None,
        dtype: str = "float32",
        use_cache: bool = True,
    ) -> None:
        self.config = model.config
        self.max_batch = max_batch
        self.max_len = min(max_len or model.config.max_seq_len, model.config.max_seq_len)
        self.dtype = dtype
        self.use_cache = use_cache and model.config.is_causal
        # A chunk of a model that is not causal must hold the whole sequence.
        self._largest_chunk = LARGEST_CHUNK if self.config.is_causal else _bucket(self.max_len, SMALLEST_CHUNK)
        self._params = {
            name: value if isinstance(value, PackedMatrix) else jnp.asarray(value, dtype)
            for name, value in model.params.items()
        }
        self._state = init_state(self.config, max_batch, self.max_len, dtype)
        self._waiting: deque[_Job] = deque()
        self._rows: list[_Job | None] = [None] * max_batch
        self._cancelled: set[int] = set()
        self._next_ticket = 0
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
        seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
        with self._changed:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._waiting.append(_Job(ticket, request, on_event, on_admit, seed))
            self._changed.notify_all()
        return ticket

    def validate(self, request: Request) -> None:
        """Refuses what this engine cannot run.

        Raises:
            RequestError: the request cannot fit, or names a token outside the vocabulary.
        """
        prompt, sampling, vocab = request.prompt_ids, request.sampling, self.config.vocab_size
        if not prompt:
            raise RequestError("The prompt has no tokens; give at least one.", "prompt")
        if len(prompt) + sampling.max_new_tokens > self.max_len:
            raise RequestError(
                f"The prompt has {len(prompt)} tokens and max_new_tokens is {sampling.max_new_tokens}; together they "
                f"must fit the context of {self.max_len}.",
                "max_new_tokens",
            )
        for name, ids in (("prompt", prompt), ("logit_bias", sampling.logit_bias or ())):
            outside = next((i for i in ids if not 0 <= i < vocab), None)
            if outside is not None:
                raise RequestError(f"{name} holds token id {outside}; ids of this model are 0 to {vocab - 1}.", name)

    def cancel(self, ticket: int) -> None:
        """Forgets a request and frees its place before the next step; it gets no further events. Thread-safe."""
        with self._changed:
            self._cancelled.add(ticket)
            self._changed.notify_all()

    def step(self) -> bool:
        """Admits, prefills one chunk, decodes one token for every ready row. False when nothing is left to do."""
        with self._changed:
            self._drop_cancelled()
            admitted = self._admit()
        try:
            for job in admitted:
                job.on_admit()
                settings = row_settings(job.request.sampling, job.request.prompt_ids, job.seed, self.config.vocab_size)
                self._state = admit(self._state, np.int32(job.row), settings)
            self._prefill_step()
            self._decode_step()
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
        """Compiles every program that a request can need. Call it before the first request."""
        idle = np.zeros(self.max_batch, bool)
        nothing = row_settings(SamplingParams(temperature=0.0), (), 0, self.config.vocab_size)
        starts = range(0, self.max_len, self._largest_chunk)
        chunks = {self._chunk(n) for n in range(1, min(self.max_len, self._largest_chunk) + 1)}
        for chunk, context in sorted({(chunk, self._context(start + chunk)) for start in starts for chunk in chunks}):
            self._run_prefill(0, np.zeros(chunk, np.int32), 0, 1, True, None, context)
        if self.use_cache:
            for context in sorted({self._context(n) for n in range(1, self.max_len + 1)}):
                self._run_decode(idle, None, context)
        self._state = admit(self._state, np.int32(0), nothing)
        self._state.last_B.block_until_ready()

    @property
    def stats(self) -> EngineStats:
        with self._changed:
            running = [job for job in self._rows if job is not None]
            return EngineStats(
                running=len(running),
                waiting=len(self._waiting),
                slots=self.max_batch,
                kv_tokens=sum(job.held for job in running),
                kv_capacity=self.max_batch * self.max_len,
                compilations=sum(f._cache_size() for f in (admit, prefill, decode)),  # type: ignore[attr-defined]
            )

    # ---- one step ----

    def _drop_cancelled(self) -> None:
        self._waiting = deque(job for job in self._waiting if job.ticket not in self._cancelled)
        self._rows = [None if job and job.ticket in self._cancelled else job for job in self._rows]
        self._cancelled.clear()

    def _admit(self) -> list[_Job]:
        """Gives free rows to the longest-waiting requests."""
        admitted = []
        for row in range(self.max_batch):
            if self._rows[row] is None and self._waiting:
                job = self._waiting.popleft()
                job.row = row
                self._rows[row] = job
                admitted.append(job)
        return admitted

    def _prefill_step(self) -> None:
        """Runs the next chunk of the oldest request that is still in its prompt."""
        pending = [job for job in self._rows if job is not None and not self._is_ready(job)]
        if not pending:
            return
        job = min(pending, key=lambda job: job.ticket)
        sequence = job.sequence
        tokens = sequence[job.held : job.held + self._largest_chunk]
        is_last = job.held + len(tokens) == len(sequence)
        chunk = np.zeros(self._chunk(len(tokens)), np.int32)
        chunk[: len(tokens)] = tokens
        context = self._context(job.held + len(chunk))
        mask = None if job.request.mask is None or not is_last else job.request.mask(job.generated)
        allowed = None if mask is None else mask[None]
        choice = self._run_prefill(job.row, chunk, job.held, len(tokens), is_last, allowed, context)
        job.held += len(tokens)
        if is_last:
            self._emit(job, choice, 0)

    def _decode_step(self) -> None:
        """One token for every row that is past its prompt."""
        ready = [job for job in self._rows if job is not None and self._is_ready(job)]
        if not ready:
            return
        active = np.zeros(self.max_batch, bool)
        active[[job.row for job in ready]] = True
        context = self._context(max(job.held for job in ready) + 1)
        choice = self._run_decode(active, self._allowed(ready), context)
        for job in ready:
            job.held += 1
            self._emit(job, choice, job.row)

    def _is_ready(self, job: _Job) -> bool:
        """Whether the row holds everything but the last generated token, which a decode step feeds."""
        return self.use_cache and bool(job.generated) and job.held == len(job.sequence) - 1

    def _allowed(self, ready: list[_Job]) -> np.ndarray | None:
        if all(job.request.mask is None for job in ready):
            return None
        allowed = np.ones((self.max_batch, self.config.vocab_size), bool)
        for job in ready:
            mask = None if job.request.mask is None else job.request.mask(job.generated)
            if mask is not None:
                allowed[job.row] = mask
        return allowed

    def _emit(self, job: _Job, choice: Choice, index: int) -> None:
        """Takes a row's token from a step's result, ends the request where it must, and tells its listener."""
        sampling = job.request.sampling
        token = int(choice.token_B[index])
        job.generated.append(token)
        finish: FinishReason | None = None
        if token in sampling.stop_ids:
            finish = "stop"
        elif len(job.generated) >= sampling.max_new_tokens:
            finish = "length"
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if sampling.logprobs is not None:
            logprob = float(choice.logprob_B[index])
            ids, values = choice.top_BA[index].tolist(), choice.top_logprob_BA[index].tolist()
            top = tuple(zip(ids, values, strict=True))[: sampling.logprobs]
        if finish is not None:
            with self._changed:
                self._rows[job.row] = None
        elif not self.use_cache:
            job.held = 0
        with self._changed:
            if job.ticket in self._cancelled:
                return
        job.on_event(TokenEvent(token, logprob, top, finish))

    def _run_prefill(
        self,
        row: int,
        tokens: np.ndarray,
        start: int,
        count: int,
        is_last: bool,
        allowed: np.ndarray | None,
        context: int,
    ) -> Choice:
        self._state, choice = prefill(
            self.config, self._params, self._state, np.int32(row), tokens, np.int32(start), np.int32(count),
            np.bool_(is_last), allowed, dtype=self.dtype, context=context,
        )  # fmt: skip
        return jax.tree.map(np.asarray, choice)

    def _run_decode(self, active: np.ndarray, allowed: np.ndarray | None, context: int) -> Choice:
        self._state, choice = decode(
            self.config, self._params, self._state, active, allowed, dtype=self.dtype, context=context
        )  # fmt: skip
        return jax.tree.map(np.asarray, choice)

    def _chunk(self, tokens: int) -> int:
        return _bucket(min(tokens, self._largest_chunk), SMALLEST_CHUNK)

    def _context(self, tokens: int) -> int:
        return min(_bucket(tokens, SMALLEST_CONTEXT), self.max_len)

    # ---- around the steps ----

    def _has_work(self) -> bool:
        return bool(self._waiting or self._cancelled or any(self._rows))

    def _fail(self, error: Exception) -> None:
        """A step broke: its donated state is gone. Every running request hears why, and the engine starts clean."""
        with self._changed:
            running = [job for job in self._rows if job is not None]
            self._rows = [None] * self.max_batch
        self._state = init_state(self.config, self.max_batch, self.max_len, self.dtype)
        for job in running:
            job.on_event(error)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._has_work())
                if self._closing:
                    return
            self.step()


def _bucket(n: int, smallest: int) -> int:
    """The least power of two that is at least n and at least `smallest`."""
    return max(smallest, 1 << (n - 1).bit_length())
