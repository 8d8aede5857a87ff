"""From the first byte listened for to the last answer sent: loading, ready, draining."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Unavailable
from server.metrics import Metrics

if TYPE_CHECKING:
    from llm_jax.inference import EngineStats
    from server.async_engine import AsyncEngine

REFUSALS = {
    "loading": "The model is still being loaded; try again in a few seconds.",
    "draining": "The server is shutting down; try again in a few seconds.",
}


class Lifecycle:
    """Which phase the server is in, and what it serves once it is ready. Used on the event loop alone."""

    def __init__(self) -> None:
        self.phase: Literal["loading", "ready", "draining"] = "loading"
        self._engine: AsyncEngine | None = None
        self.ready_at = 0  # seconds since 1970
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def refusal(self) -> Unavailable | None:
        """Why no request is taken now; None when ready."""
        return Unavailable(REFUSALS[self.phase], code=self.phase) if self.phase in REFUSALS else None

    @property
    def engine(self) -> "AsyncEngine":
        """The loaded model behind its engine.

        Raises:
            Unavailable: it is not loaded yet, or the server is shutting down.
        """
        if self.refusal:
            raise self.refusal
        assert self._engine is not None
        return self._engine

    @property
    def stats(self) -> "EngineStats | None":
        return self._engine.stats if self._engine else None

    def become_ready(self, engine: "AsyncEngine") -> None:
        self._engine = engine
        self.ready_at = int(time.time())
        if self.phase == "loading":
            self.phase = "ready"

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request as in flight."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def drain(self, grace: float) -> None:
        """Takes no more requests and waits until those in flight are answered; after `grace` seconds ends them."""
        self.phase = "draining"
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            if self._engine and self.refusal:
                self._engine.abort(self.refusal)

    async def close(self) -> None:
        if self._engine:
            await asyncio.to_thread(self._engine.close)


def engine_of(request: Request) -> "AsyncEngine":
    """What serves this request.

    Raises:
        Unavailable: nothing does yet, or any more.
    """
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle.engine


class Availability:
    """Answers 503 to everything but `open_paths` unless the server is ready, and counts what is in flight."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle, metrics: Metrics, open_paths: frozenset[str]) -> None:
        self.app = app
        self.lifecycle = lifecycle
        self.metrics = metrics
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.lifecycle.refusal
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
        elif refusal:
            self.metrics.rejections.labels(refusal.code).inc()
            await refusal.response()(scope, receive, send)
        else:
            with self.lifecycle.request():
                await self.app(scope, receive, send)
