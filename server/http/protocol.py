"""HTTP on the wire, where uvicorn's own protocol is not what clients need.

The parser is h11, whatever else is installed: httptools loses the body of a request that offers an upgrade
(`Upgrade: h2c`, as Java's client and `curl --http2` do), and sends chunks to HTTP/1.0.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from server.http.errors import BadHttp

PROBES = (0.25, 1, 4, 16, 64, 256)  # seconds after which a half-closed connection is probed
ANSWER = 0.05  # seconds within which a peer that is gone has said so


def protocol(read_timeout: float) -> type[HttpProtocol]:
    """The protocol that gives a request's head so many seconds."""
    return type("HttpProtocol", (HttpProtocol,), {"read_timeout": read_timeout})


class HttpProtocol(H11Protocol):
    """h11, with errors in OpenAI's form and answers to clients that have closed their sending side.

    Attributes:
        read_timeout: seconds from a connection's begin, or a request's first byte, to the end of the request's head.
    """

    read_timeout = 60.0
    _head_alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._head_alarm = self.loop.call_later(self.read_timeout, self._give_up_head)

    def data_received(self, data: bytes) -> None:
        if self._head_alarm is None and self.conn.their_state is h11.IDLE:
            self._head_alarm = self.loop.call_later(self.read_timeout, self._give_up_head)
        super().data_received(data)
        if self._head_alarm is not None and self.conn.their_state is not h11.IDLE:
            self._head_alarm.cancel()
            self._head_alarm = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_alarm is not None:
            self._head_alarm.cancel()
        super().connection_lost(exc)

    def _give_up_head(self) -> None:
        if not self.conn.trailing_data[0]:  # not even begun
            self.transport.close()
        elif not self.transport.is_closing():
            self._refuse(408, f"The head of the request was not complete within {self.read_timeout:g} seconds.")

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses; called where it has raised the reason."""
        reason = sys.exc_info()[1]
        status = getattr(reason, "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        # Without what was received, which may be a key.
        cause = str(reason or "it cannot be parsed").partition(": ")[0]
        self._refuse(status, f"{msg.rstrip('.')}: {cause}.")

    def _refuse(self, status: int, message: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = BadHttp(message, status=status).response()
            headers = [*response.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # as uvicorn narrows it
        """A client may close its sending side behind a request and wait for the answer (RFC 9112, 9.6).

        One that has closed the connection looks the same until something is sent to it: an interim response.
        """
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.scheme == "https":
            return False
        self.cycle.keep_alive = False
        self._probe_later(0)
        return True

    def _probe_later(self, number: int) -> None:
        if number < len(PROBES) and self.scope["http_version"] != "1.0":
            self.loop.call_later(PROBES[number], self._probe, number)

    def _probe(self, number: int) -> None:
        if self.transport.is_closing() or self.conn.our_state is not h11.SEND_RESPONSE:
            return  # answered, or a stream, whose own writes tell
        interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
        self.transport.write(self.conn.send(interim) or b"")
        self.loop.call_later(ANSWER, self._end_if_gone, number)

    def _end_if_gone(self, number: int) -> None:
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._probe_later(number + 1)


class AbsoluteForm:
    """Takes a request target as proxies get it, http://host/path, for its path (RFC 9112, 3.2.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (authority := re.match("https?://[^/]*", scope["path"], re.IGNORECASE)):
            path = scope["path"][authority.end() :] or "/"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)
