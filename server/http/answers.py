"""A generation on its way to the client: whole, or as server-sent events. Both end when the client hangs up."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from server.http.errors import ApiError

if TYPE_CHECKING:
    from server.generation.deltas import Delta
    from server.generation.generation import Generation

T = TypeVar("T")
Json = dict[str, Any]
log = structlog.get_logger("server.http.answers")

_to_json = json.JSONEncoder(separators=(",", ":")).encode
SEND_TIMEOUT = 60.0  # seconds that a client may refuse to read before its stream is given up


class StreamFormat(ABC):
    """The server-sent events of an API: which events a stream begins with, a delta becomes, and it ends with.

    Attributes:
        is_named: whether each event has an `event:` line with its "type".
        is_terminated: whether `data: [DONE]` follows the last event.
    """

    is_named = False
    is_terminated = True

    def begin(self) -> Iterable[Json]:
        return ()

    @abstractmethod
    def delta(self, index: int, delta: Delta) -> Iterable[Json]:
        """The events of what the choice at `index` gained."""

    def end(self) -> Iterable[Json]:
        """The events after the last delta of the last choice."""
        return ()

    def error(self, error: ApiError) -> Iterable[Json]:
        """The last events of a stream that breaks."""
        return (error.body(),)


class Work(Protocol[T]):
    """What a request has begun on an engine. Leaving it as a context cancels what still runs."""

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...
    def log_fields(self) -> Json: ...
    def results(self) -> Coroutine[Any, Any, list[T]]: ...


async def collect(request: Request, work: Work[T]) -> list[T]:
    """Every result, whole.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    with work:
        try:
            return await _until_disconnect(request, work.results())
        finally:
            request.scope["log_fields"].update(work.log_fields())


async def stream(request: Request, generation: Generation, events: StreamFormat) -> EventSourceResponse:
    """The generation as server-sent events, those of one step of the engine in one write.

    It returns with the first delta, so that what goes wrong before keeps its HTTP status, or after the time that a
    stream may be silent; then comments hold the connection open, and errors are events.
    """
    interval = request.app.state.settings.stream_ping
    try:
        await _until_disconnect(request, generation.ready(within=interval))
    except BaseException:
        with generation:
            raise
    return _EventStream(generation, _frames(generation, events), interval)


class _EventStream(EventSourceResponse):
    def __init__(self, generation: Generation, frames: AsyncIterator[bytes], interval: float) -> None:
        super().__init__(frames, sep="\n", send_timeout=SEND_TIMEOUT, ping=interval)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._generation:
            try:
                await super().__call__(scope, receive, send)
            except SendTimeoutError:
                log.warning("client does not read its stream", seconds=SEND_TIMEOUT)
            finally:
                scope["log_fields"].update(self._generation.log_fields())


async def _frames(generation: Generation, events: StreamFormat) -> AsyncIterator[bytes]:
    try:
        if not await generation.ready(within=0):
            yield b": waiting\n\n"
        beginning = _encode(events.begin(), events)
        async for batch in generation:
            new = (event for index, delta in batch for event in events.delta(index, delta))
            yield beginning + _encode(new, events)
            beginning = b""
        yield beginning + _encode(events.end(), events) + (b"data: [DONE]\n\n" if events.is_terminated else b"")
    except ApiError as error:
        yield _encode(events.error(error), events)
    except Exception:
        log.exception("stream broke")
        yield _encode(events.error(ApiError("The server failed while it generated this answer.")), events)


def _encode(events: Iterable[Json], form: StreamFormat) -> bytes:
    """All but ASCII is escaped: readers that split lines as Python does would break an event at U+2028 or U+0085."""
    frames = []
    for event in events:
        name = f"event: {event['type']}\n" if form.is_named else ""
        frames.append(f"{name}data: {_to_json(event)}\n\n")
    return "".join(frames).encode()


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up first. The body must have been read."""
    working = asyncio.create_task(work)
    hanging_up = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        hanging_up.cancel()
        await asyncio.gather(working, hanging_up, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
