"""A generation on its way to the client: whole, or as server-sent events. Both end when the client hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from server.errors import ApiError

if TYPE_CHECKING:
    from server.generation import Generation, Result

T = TypeVar("T")
Json = dict[str, Any]
log = structlog.get_logger("server.answers")

SEND_TIMEOUT = 60.0  # seconds that a client may refuse to read before its stream is given up


async def collect(request: Request, generation: Generation) -> list[Result]:
    """Every choice, whole.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    with generation:
        try:
            return await _until_disconnect(request, generation.results())
        finally:
            request.scope["log_fields"].update(generation.log_fields())


async def stream(
    request: Request, generation: Generation, events: Callable[[Generation], AsyncIterator[Json]]
) -> EventSourceResponse:
    """`events(generation)`, each as one `data:` frame of JSON, and `data: [DONE]`.

    It returns with the first event, so that what goes wrong before keeps its HTTP status; later errors are frames.
    """
    frames = events(generation)
    try:
        first = await _until_disconnect(request, _first(frames))
    except BaseException:
        with generation:
            raise
    return _EventStream(generation, _encode(first, frames))


class _EventStream(EventSourceResponse):
    def __init__(self, generation: Generation, frames: AsyncIterator[str]) -> None:
        super().__init__(frames, sep="\n", send_timeout=SEND_TIMEOUT)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._generation:
            try:
                await super().__call__(scope, receive, send)
            except SendTimeoutError:
                log.warning("client does not read its stream", seconds=SEND_TIMEOUT)
            finally:
                scope["log_fields"].update(self._generation.log_fields())


async def _first(frames: AsyncIterator[Json]) -> Json:
    return await anext(frames)


async def _encode(first: Json, rest: AsyncIterator[Json]) -> AsyncIterator[str]:
    try:
        yield json.dumps(first, ensure_ascii=False)
        async for event in rest:
            yield json.dumps(event, ensure_ascii=False)
        yield "[DONE]"
    except ApiError as error:
        yield json.dumps(error.body())
    except Exception:
        log.exception("stream broke")
        yield json.dumps(ApiError("The server failed while it generated this answer.").body())


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
