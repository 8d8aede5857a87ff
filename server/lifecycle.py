"""The phases of the server: loading, ready, draining."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.account import ANYBODY, Account
from server.http.errors import Unavailable
from server.observers import Observer
from server.registry import Registry

if TYPE_CHECKING:
    from server.served_model import ServedModel

REFUSALS = {
    "loading": "The model is still being loaded; try again in a few seconds.",
    "draining": "The server is shutting down; try again in a few seconds.",
}


class Lifecycle:
    """Which phase the server is in, the models that it has loaded, and who observes their requests.

    Used on the event loop alone.

    Attributes:
        observers: notified of the events of every request; append to it before models are loaded.
    """

    def __init__(self) -> None:
        self.phase: Literal["loading", "ready", "draining"] = "loading"
        self.registry = Registry()
        self.observers: list[Observer] = []
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def refusal(self) -> Unavailable | None:
        """Why no request is taken now; None when ready."""
        return Unavailable(REFUSALS[self.phase], code=self.phase) if self.phase in REFUSALS else None

    def become_ready(self, *models: "ServedModel") -> None:
        """Serves these models, the first one by default."""
        for model in models:
            self.registry.add(model)
        if self.phase == "loading":
            self.phase = "ready"

    def check_engines(self) -> None:
        """
        Raises:
            Unavailable: an engine computes nothing any more, or fails each time.
        """
        broken = [model.name for model in self.registry if not model.is_healthy]
        if broken:
            raise Unavailable(
                f"The engine of {broken[0]!r} fails; the log says why. Restart the server.", code="engine_failed"
            )

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
            for model in self.registry.bases:
                model.abort(Unavailable(REFUSALS["draining"], code="draining"))

    async def close(self) -> None:
        for model in self.registry.bases:
            await asyncio.to_thread(model.close)


def registry_of(request: Request) -> Registry:
    """The models that a request may use.

    Raises:
        Unavailable: none is loaded yet, or the server is shutting down.
    """
    lifecycle: Lifecycle = request.app.state.lifecycle
    if lifecycle.refusal:
        raise lifecycle.refusal
    account: Account = request.scope.get("account", ANYBODY)
    return lifecycle.registry.only(account.may_use)


class Availability:
    """Answers 503 to everything but `open_paths` unless the server is ready, and counts what is in flight."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle, open_paths: frozenset[str]) -> None:
        self.app = app
        self.lifecycle = lifecycle
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.lifecycle.refusal
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
        elif refusal:
            for observer in self.lifecycle.observers:
                observer.on_rejected(self.lifecycle.phase)
            await refusal.response(scope)(scope, receive, send)
        else:
            with self.lifecycle.request():
                await self.app(scope, receive, send)
