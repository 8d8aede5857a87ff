"""Request bodies: how large they may be, and in which codings they may come."""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import BodyTooLarge, InvalidRequest, RequestTimeout, UnsupportedCoding

ZLIB_OR_GZIP = 47  # zlib's window bits for either, told apart by their beginnings


class RequestBody:
    """Decompresses bodies, and refuses those above `limit` bytes: at once where it is announced, else when passed.

    Args:
        timeout: seconds of silence after which a body that is not complete is given up.
    """

    def __init__(self, app: ASGIApp, *, limit: int, timeout: float) -> None:
        self.app = app
        self.limit = limit
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        too_large = BodyTooLarge(f"The request body is larger than the {self.limit} bytes that this server takes.")
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.limit:
            await too_large.response(scope)(scope, receive, send)
            return
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip", "deflate"):
            error = UnsupportedCoding(f"The request body has the content coding {coding[:40]!r}; use gzip or none.")
            await error.response(scope)(scope, receive, send)
            return
        inflate = None if coding == "identity" else Inflation(self.limit)
        received, is_complete = 0, False

        async def limited_receive() -> Message:
            nonlocal received, is_complete
            try:
                async with asyncio.timeout(None if is_complete else self.timeout):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(f"Nothing of the request body came for {self.timeout:g} seconds.") from None
            is_complete = not message.get("more_body", False)
            if inflate and message["type"] == "http.request":
                body = inflate.push(message.get("body", b""), is_last=not message.get("more_body", False))
                message = {**message, "body": body}
            received += len(message.get("body", b""))
            if received > self.limit:
                raise too_large
            return message

        await self.app(scope, limited_receive, send)


class Inflation:
    """Decompresses a body piece by piece, never far beyond `limit` bytes. A gzip body may have several members."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stream = zlib.decompressobj(ZLIB_OR_GZIP)

    def push(self, data: bytes, *, is_last: bool) -> bytes:
        """The text of the next piece.

        Raises:
            InvalidRequest: it is not compressed, or damaged, or cut.
        """
        inflated = b""
        try:
            while data and len(inflated) <= self._limit:
                if self._stream.eof:
                    self._stream = zlib.decompressobj(ZLIB_OR_GZIP)
                inflated += self._stream.decompress(data, self._limit + 1 - len(inflated))
                data = self._stream.unused_data
        except zlib.error as error:
            raise InvalidRequest(f"The request body is not gzip: {error}.", code="invalid_coding") from None
        if is_last and not self._stream.eof and len(inflated) <= self._limit:
            raise InvalidRequest("The request body is not gzip: it ends too early.", code="invalid_coding")
        return inflated
