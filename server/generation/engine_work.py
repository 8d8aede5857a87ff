"""One HTTP request's work on an engine: what of it runs, until when, and how it ends.

The engine steps in a thread of its own. What it hands over within one step is one batch on the event loop.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llm_jax.errors import RequestError
from llm_jax.inference import Engine
from server.access.account import Account
from server.http.errors import ApiError, DeadlineExceeded, NotFound, Unavailable
from server.observers import Observer, RequestStats

HandOver = Callable[[Any], None]  # of events, and of the count of cached tokens when a request is admitted


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds after a request's arrival by which it must have a batch slot, its first token, and its last."""

    queue: float
    first_token: float
    total: float


@dataclass(frozen=True, kw_only=True)
class WorkContext:
    """Where work runs, and for whom.

    Attributes:
        on_close: called with the work when it is left.
        model: its name, or that of the adapter; adapter: the name that the engine knows it by, empty for the model.
    """

    engine: Engine
    deadlines: Deadlines
    observers: Sequence[Observer]
    account: Account
    on_close: Callable[["EngineWork"], None]
    model: str
    adapter: str = ""


class EngineWork(ABC):
    """Several engine requests, by index. Use it as a context manager: leaving it cancels what still runs.

    Attributes:
        account: on whose behalf.
        stats: of each engine request, in order.
    """

    def __init__(self, context: WorkContext) -> None:
        self.account = context.account
        self.stats: list[RequestStats] = []
        self._engine = context.engine
        self._deadlines = context.deadlines
        self._observers = context.observers
        self._on_close = context.on_close
        self._model, self._adapter = context.model, context.adapter
        self._running: dict[int, int] = {}  # index -> request id of the engine
        self._handed_over: deque[tuple[int, Any]] = deque()  # by the engine's thread
        self._is_woken = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many of them have no batch slot yet."""
        return sum(self.stats[index].admitted is None for index in self._running)

    @property
    def prompt_tokens(self) -> int:
        return sum(stats.prompt_tokens for stats in self.stats)

    @property
    def completion_tokens(self) -> int:
        return sum(stats.generated_tokens for stats in self.stats)

    @property
    def cached_tokens(self) -> int:
        return sum(stats.cached_tokens for stats in self.stats)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()
        if self._alarm is not None:
            self._alarm.cancel()
        self._on_close(self)

    def abort(self, error: ApiError) -> None:
        """Ends what still runs; waiting for it raises the error."""
        self._end_all()
        self._fail(error)

    @abstractmethod
    def _receive(self, index: int, event: Any) -> None:
        """Takes an event of an engine request that is no exception; calls `_end` with the last one."""

    def _submit(self, prompt_tokens: int, submit: Callable[[HandOver], int]) -> None:
        """Adds an engine request: `submit` gives it to the engine, and the engine a function to hand events to.

        Raises:
            NotFound: the adapter has gone meanwhile.
        """
        index = len(self.stats)
        # The event loop's own clock may count in milliseconds.
        stats = RequestStats(model=self._model, prompt_tokens=prompt_tokens, arrived=time.perf_counter())

        def hand_over(event: Any) -> None:  # in the engine's thread
            self._handed_over.append((index, event))
            if not self._is_woken:
                self._is_woken = True
                self._loop.call_soon_threadsafe(self._take_over)

        try:
            self._running[index] = submit(hand_over)
        except RequestError as error:  # all else was checked before
            raise NotFound(str(error), code="model_not_found") from None
        self.stats.append(stats)

    async def _until(self, is_there: Callable[[], bool], within: float | None = None) -> bool:
        """Waits for something, or for the end of all; False where it took longer than `within` seconds.

        Raises:
            ApiError: a deadline has passed, or the work was aborted.
            Exception: a request failed in the engine.
        """
        patience = math.inf if within is None else self._loop.time() + within
        while not is_there() and self._running:
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
        if self._error is not None and not is_there():
            raise self._error
        return True

    def _take_over(self) -> None:
        self._is_woken = False
        while self._handed_over:
            index, event = self._handed_over.popleft()
            if index not in self._running:  # cancelled while the event was on its way
                continue
            try:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, int):
                    self._admit(self.stats[index], event)
                else:
                    self._receive(index, event)
            except Exception as error:
                self._fail(error)
                if index in self._running:
                    self._end(index)
        self._changed.set()

    def _admit(self, stats: RequestStats, cached_tokens: int) -> None:
        """A request has a batch slot, and that many tokens of its prompt need not be computed."""
        stats.cached_tokens = cached_tokens
        stats.admitted = time.perf_counter()
        for observer in self._observers:
            observer.on_admitted(stats)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._changed.set()

    def _end(self, index: int, *, is_done: bool = False) -> None:
        """Ends an engine request; cancels it unless `is_done`, when the engine has freed the slot itself."""
        request_id = self._running.pop(index)
        if not is_done:
            self._engine.cancel(request_id)
        for observer in self._observers:
            observer.on_ended(self.stats[index])

    def _end_all(self) -> None:
        for index in list(self._running):
            self._end(index)

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
        """The requests share one wait: while one of them runs, no other counts as waiting for a slot."""
        limits = self._deadlines
        total, first = self._arrived + limits.total, self._arrived + limits.first_token
        if any(stats.first_token is not None for stats in self.stats):
            return total, lambda: DeadlineExceeded(f"The answer took longer than {limits.total:g} seconds.")
        if any(stats.admitted is not None for stats in self.stats):
            late = min((first, "first token", limits.first_token), (total, "answer", limits.total))
            return late[0], lambda: DeadlineExceeded(f"The {late[1]} took longer than {late[2]:g} seconds.")
        return min(self._arrived + limits.queue, first, total), lambda: Unavailable(
            f"The request waited {limits.queue:g} seconds for a batch slot; try again later.", code="queue_timeout"
        )
