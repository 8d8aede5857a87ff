"""One HTTP request's work on the engine where texts are embedded; see `generation` for its like."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from llm_jax.inference import Engine
from server.generation.generation import Deadlines
from server.http.errors import ApiError, DeadlineExceeded, Unavailable
from server.observers import Observer, RequestStats


class EmbeddingWork:
    """Texts to embed, some of them at a time. Use it as a context manager: leaving it cancels what still runs.

    Args:
        prompts: ids of the texts, which the engine can take.
        at_once: how many of them may be in the engine at a time.
    """

    def __init__(
        self,
        engine: Engine,
        deadlines: Deadlines,
        observers: Sequence[Observer],
        prompts: Sequence[Sequence[int]],
        *,
        tenant: str,
        at_once: int,
        on_close: Callable[["EmbeddingWork"], None],
    ) -> None:
        self._engine = engine
        self._deadlines = deadlines
        self._observers = observers
        self._tenant = tenant
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._admitted = asyncio.Event()
        now = time.perf_counter()
        self._stats = [RequestStats(prompt_tokens=len(ids), arrived=now) for ids in prompts]
        self._vectors: list[asyncio.Future[np.ndarray]] = [self._loop.create_future() for _ in prompts]
        self._running: dict[int, int] = {}  # index of the text -> request id of the engine
        self._waiting = deque(enumerate(prompts))
        for _ in range(min(at_once, len(prompts))):
            self._submit_next()

    def _submit_next(self) -> None:
        index, ids = self._waiting.popleft()

        def on_result(result: np.ndarray | Exception) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._receive, index, result)

        def on_admit(cached_tokens: int) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._admit, index, cached_tokens)

        self._running[index] = self._engine.embed(ids, on_result, on_admit, tenant=self._tenant)

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def prompt_tokens(self) -> int:
        return sum(stats.prompt_tokens for stats in self._stats)

    def log_fields(self) -> dict[str, Any]:
        return {"prompt_tokens": self.prompt_tokens}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        for index in list(self._running):
            self._end(index, is_done=False)
        self._on_close(self)

    async def results(self) -> list[np.ndarray]:
        """The vector of each text, [D], when all are there.

        Raises:
            ApiError: a deadline has passed, or the work was aborted.
            Exception: a text failed in the engine.
        """
        error: ApiError = DeadlineExceeded(f"The answer took longer than {self._deadlines.total:g} seconds.")
        try:
            async with asyncio.timeout(self._deadlines.total):
                try:
                    async with asyncio.timeout(self._deadlines.queue):
                        await self._admitted.wait()
                except TimeoutError:
                    error = Unavailable(
                        f"The request waited {self._deadlines.queue:g} seconds for a batch slot; try again later.",
                        code="queue_timeout",
                    )
                    raise
                return await asyncio.gather(*self._vectors)
        except TimeoutError:
            raise error from None

    def abort(self, error: ApiError) -> None:
        """Ends what still runs; `results` raises the error."""
        self._waiting.clear()
        for index in list(self._running):
            self._settle(index, error)
            self._end(index, is_done=False)

    def _admit(self, index: int, cached_tokens: int) -> None:
        if index in self._running:
            self._stats[index].admitted = time.perf_counter()
            self._stats[index].cached_tokens = cached_tokens
            for observer in self._observers:
                observer.on_admitted(self._stats[index])
            self._admitted.set()

    def _receive(self, index: int, result: np.ndarray | Exception) -> None:
        if index not in self._running:  # cancelled while the result was on its way
            return
        if not isinstance(result, Exception):
            self._stats[index].finish_reason = "stop"
            for observer in self._observers:
                observer.on_embedded(self._stats[index])
        self._settle(index, result)
        self._end(index, is_done=True)
        if self._waiting:
            self._submit_next()

    def _settle(self, index: int, result: np.ndarray | Exception) -> None:
        self._admitted.set()
        if isinstance(result, Exception):
            self._vectors[index].set_exception(result)
            self._vectors[index].exception()  # it is raised by `results`, which may have ended before
        else:
            self._vectors[index].set_result(result)

    def _end(self, index: int, *, is_done: bool) -> None:
        request_id = self._running.pop(index)
        if not is_done:
            self._engine.cancel(request_id)
        for observer in self._observers:
            observer.on_ended(self._stats[index])
