"""One HTTP request's work on the engine: its choices, as pieces of text that arrive in an asyncio queue.

The engine steps in a thread of its own. It hands each token over with `call_soon_threadsafe`; everything in this
file then happens on the event loop.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from llm_jax.inference import Engine, Request, TextPiece, TextStream, TokenEvent
from server.errors import ApiError, DeadlineExceeded, Unavailable
from server.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds after a request's arrival by which it must have a place, its first token, and its last."""

    queue: float
    first_token: float
    total: float


@dataclass(frozen=True)
class Result:
    """A choice, whole."""

    text: str
    token_count: int
    finish_reason: str


class Choice:
    """One engine request: from its submission to its last token."""

    def __init__(self, prompt_tokens: int, text: TextStream, prefix: str, metrics: Metrics) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.finish_reason: str | None = None
        self._text = text
        self._prefix = prefix
        self._metrics = metrics
        self._arrived = time.perf_counter()  # the event loop's own clock may count in milliseconds
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self._last_token_at = 0.0

    @property
    def token_count(self) -> int:
        return self._text.token_count

    def admitted(self, cached_tokens: int) -> None:
        """It has a place, and that many tokens of its prompt need not be computed."""
        self.cached_tokens = cached_tokens
        self.admitted_at = time.perf_counter()
        self._metrics.queue_time.observe(self.admitted_at - self._arrived)

    def receive(self, event: TokenEvent) -> TextPiece:
        """The text that this token makes certain."""
        now = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = now
            self._metrics.time_to_first_token.observe(now - self._arrived)
            self._metrics.prefill_time.observe(now - (self.admitted_at or self._arrived))
            self._metrics.prompt_tokens.inc(self.prompt_tokens)
            self._metrics.prompt_tokens_cached.inc(self.cached_tokens)
        else:
            self._metrics.inter_token_latency.observe(now - self._last_token_at)
        self._last_token_at = now
        self._metrics.generation_tokens.inc()
        piece = self._text.push(event)
        self.finish_reason = piece.finish_reason
        if piece.text and self._prefix:
            piece = replace(piece, text=piece.text.removeprefix(self._prefix))
            self._prefix = ""
        return piece

    def record_end(self) -> None:
        self._metrics.success.labels(self.finish_reason or "abort").inc()
        if self.finish_reason and self.first_token_at is not None:
            self._metrics.e2e_latency.observe(self._last_token_at - self._arrived)
            self._metrics.decode_time.observe(self._last_token_at - self.first_token_at)
            self._metrics.request_prompt_tokens.observe(self.prompt_tokens)
            self._metrics.request_generation_tokens.observe(self.token_count)


class Generation:
    """The choices of one HTTP request. Iterates over (index of the choice, piece of its text).

    Use it as a context manager: leaving it, for whatever reason, takes what still runs off the engine.
    """

    def __init__(self, engine: Engine, deadlines: Deadlines, on_close: Callable[["Generation"], None]) -> None:
        self.choices: list[Choice] = []
        self._engine = engine
        self._deadlines = deadlines
        self._on_close = on_close
        self._running: dict[int, int] = {}  # index of the choice -> the engine's ticket
        self._pieces: asyncio.Queue[tuple[int, TextPiece] | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()

    def submit(self, request: Request, text: TextStream, prefix: str, metrics: Metrics) -> None:
        """Adds a choice, whose text loses `prefix` if it begins with it."""
        index = len(self.choices)
        choice = Choice(len(request.prompt_ids), text, prefix, metrics)
        self.choices.append(choice)

        def on_event(event: TokenEvent | Exception) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._receive, index, event)

        def on_admit(cached_tokens: int) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(choice.admitted, cached_tokens)

        self._running[index] = self._engine.submit(request, on_event, on_admit)

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def prompt_tokens(self) -> int:
        return sum(choice.prompt_tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.token_count for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return sum(choice.cached_tokens for choice in self.choices)

    def usage(self) -> dict[str, Any]:
        """As OpenAI's answers have it."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def log_fields(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self._running):
            self._end(index)
        self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, TextPiece]:
        if not self._running and self._pieces.empty():
            raise StopAsyncIteration
        deadline, error = self._next_deadline()
        try:
            async with asyncio.timeout_at(deadline):
                item = await self._pieces.get()
        except TimeoutError:
            raise error from None
        if isinstance(item, Exception):
            raise item
        return item

    async def results(self) -> list[Result]:
        """Every choice, when all have ended."""
        texts: list[list[str]] = [[] for _ in self.choices]
        async for index, piece in self:
            texts[index].append(piece.text)
        return [
            Result("".join(pieces), choice.token_count, choice.finish_reason or "")
            for pieces, choice in zip(texts, self.choices, strict=True)
        ]

    def abort(self, error: ApiError) -> None:
        """Ends what still runs; whoever reads the pieces meets the error."""
        for index in list(self._running):
            self._end(index)
        self._pieces.put_nowait(error)

    def _receive(self, index: int, event: TokenEvent | Exception) -> None:
        if index not in self._running:  # cancelled while the event was on its way
            return
        choice = self.choices[index]
        try:
            if isinstance(event, Exception):
                raise event
            self._pieces.put_nowait((index, choice.receive(event)))
        except Exception as error:
            self._pieces.put_nowait(error)
            self._end(index)
            return
        if choice.finish_reason:
            self._end(index, is_done=event.finish is not None)

    def _end(self, index: int, *, is_done: bool = False) -> None:
        """Takes a choice off the engine, which has let go of it itself where `is_done`."""
        ticket = self._running.pop(index)
        if not is_done:
            self._engine.cancel(ticket)
        self.choices[index].record_end()

    def _next_deadline(self) -> tuple[float, ApiError]:
        total = self._arrived + self._deadlines.total
        if all(choice.first_token_at is not None for choice in self.choices):
            return total, DeadlineExceeded(f"The answer took longer than {self._deadlines.total:g} seconds.")
        first = self._arrived + self._deadlines.first_token
        if all(choice.admitted_at is not None for choice in self.choices):
            return min(first, total), DeadlineExceeded(
                f"The first token took longer than {self._deadlines.first_token:g} seconds."
            )
        return min(self._arrived + self._deadlines.queue, first, total), Unavailable(
            f"The request waited {self._deadlines.queue:g} seconds for a place; try again later.", code="queue_timeout"
        )
