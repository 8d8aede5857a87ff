"""One HTTP request's work on the engine: its choices, as deltas that arrive on the event loop.

The engine steps in a thread of its own. What it hands over within one step is one batch here.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llm_jax.inference import Engine, Request, TokenEvent
from server.generation.choice_stream import ChoiceStream
from server.generation.choice_text import ChoiceText
from server.generation.deltas import Choice, Delta
from server.http.errors import ApiError, DeadlineExceeded, Unavailable
from server.observers import Observer

Batch = list[tuple[int, Delta]]  # indices of choices, each with what it gained


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds after a request's arrival by which it must have a batch slot, its first token, and its last."""

    queue: float
    first_token: float
    total: float


class Generation:
    """The choices of one HTTP request. Iterates over batches of (index of the choice, delta).

    Use it as a context manager: leaving it, for whatever reason, cancels what still runs.
    """

    def __init__(
        self,
        engine: Engine,
        deadlines: Deadlines,
        observers: Sequence[Observer],
        *,
        on_close: Callable[["Generation"], None],
    ) -> None:
        self.choices: list[ChoiceStream] = []
        self._engine = engine
        self._deadlines = deadlines
        self._observers = observers
        self._on_close = on_close
        self._running: dict[int, int] = {}  # index of the choice -> request id of the engine
        self._handed_over: deque[tuple[int, TokenEvent | Exception | int]] = deque()  # by the engine's thread
        self._is_woken = False
        self._batch: Batch = []
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()

    def submit(self, request: Request, text: ChoiceText) -> None:
        """Adds a choice: the request goes to the engine, its tokens to `text`."""
        index = len(self.choices)
        choice = ChoiceStream(len(request.prompt_ids), text, self._observers)
        self.choices.append(choice)

        def hand_over(event: TokenEvent | Exception | int) -> None:  # in the engine's thread
            self._handed_over.append((index, event))
            if not self._is_woken:
                self._is_woken = True
                self._loop.call_soon_threadsafe(self._take_over)

        self._running[index] = self._engine.submit(request, hand_over, hand_over)

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def prompt_tokens(self) -> int:
        return sum(choice.stats.prompt_tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.stats.generated_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return sum(choice.stats.cached_tokens for choice in self.choices)

    def usage(self, *, prompts: int) -> dict[str, Any]:
        """As OpenAI's answers have it: a prompt counts once, however many choices it has."""
        choices = len(self.choices) // prompts
        stats = [choice.stats for choice in self.choices]
        prompt = sum(stat.prompt_tokens for stat in stats[::choices])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(stat.cached_tokens for stat in stats[::choices])},
        }

    def log_fields(self) -> dict[str, Any]:
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
        if self._alarm is not None:
            self._alarm.cancel()
        self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        await self.ready()
        if not self._batch:
            raise StopAsyncIteration
        batch, self._batch = self._batch, []
        return batch

    async def ready(self, within: float | None = None) -> bool:
        """Waits for the next batch or the end; False where it took longer than `within` seconds.

        Raises:
            ApiError: a deadline has passed, or the generation was aborted.
            Exception: a request failed in the engine.
        """
        patience = math.inf if within is None else self._loop.time() + within
        while not self._batch and self._running:
            if self._error is not None:
                raise self._error
            now, (deadline, late) = self._loop.time(), self._next_deadline()
            if now >= deadline:
                raise late()
            if now >= patience:
                return False
            self._changed.clear()
            self._wake_at(min(deadline, patience))
            await self._changed.wait()
        if self._error is not None and not self._batch:
            raise self._error
        return True

    async def results(self) -> list[Choice]:
        """Every choice, when all have ended."""
        deltas: list[list[Delta]] = [[] for _ in self.choices]
        async for batch in self:
            for index, delta in batch:
                deltas[index].append(delta)
        return [Choice.of(ours) for ours in deltas]

    def abort(self, error: ApiError) -> None:
        """Ends what still runs; reading the deltas raises the error."""
        for index in list(self._running):
            self._end(index)
        self._fail(error)

    def _take_over(self) -> None:
        self._is_woken = False
        while self._handed_over:
            index, event = self._handed_over.popleft()
            if index not in self._running:  # cancelled while the event was on its way
                continue
            if isinstance(event, int):
                self.choices[index].admit(event)
            else:
                self._receive(index, event)
        if self._batch or not self._running:
            self._changed.set()

    def _receive(self, index: int, event: TokenEvent | Exception) -> None:
        choice = self.choices[index]
        try:
            if isinstance(event, Exception):
                raise event
            delta = choice.receive(event)
        except Exception as error:
            self._fail(error)
            self._end(index)
            return
        if not delta.is_empty:
            self._batch.append((index, delta))
        if delta.finish_reason:
            self._end(index, is_done=event.finish is not None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._changed.set()

    def _end(self, index: int, *, is_done: bool = False) -> None:
        """Ends a choice; cancels its request unless `is_done`, when the engine has freed the slot itself."""
        request_id = self._running.pop(index)
        if not is_done:
            self._engine.cancel(request_id)
        self.choices[index].end()

    def _wake_at(self, when: float) -> None:
        """Sets the alarm, which stays what it is from token to token."""
        if self._alarm is None or self._alarm.when() != when:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._changed.set()

    def _next_deadline(self) -> tuple[float, Callable[[], ApiError]]:
        """The choices share one wait: while one of them runs, no other counts as waiting for a slot."""
        limits = self._deadlines
        total, first = self._arrived + limits.total, self._arrived + limits.first_token
        if any(choice.stats.first_token is not None for choice in self.choices):
            return total, lambda: DeadlineExceeded(f"The answer took longer than {limits.total:g} seconds.")
        if any(choice.stats.admitted is not None for choice in self.choices):
            return min(first, total), lambda: DeadlineExceeded(
                f"The first token took longer than {limits.first_token:g} seconds."
            )
        return min(self._arrived + limits.queue, first, total), lambda: Unavailable(
            f"The request waited {limits.queue:g} seconds for a batch slot; try again later.", code="queue_timeout"
        )
