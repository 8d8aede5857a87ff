"""A proxy that hands on every byte as it is, and writes down the requests that it has seen."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h11

HEADERS = ("accept", "anthropic-version", "content-type")  # that a server could look at, beside the key


@dataclass
class Recorder:
    """Requests in the order of their ends, as dicts: method, path, headers, body, status of the answer."""

    target: tuple[str, int]
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> str:
        """Listens, and returns the address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    def take(self) -> list[dict[str, Any]]:
        """What has been recorded since the last time, each request once."""
        seen, self.requests = self.requests, []
        return [request for index, request in enumerate(seen) if request not in seen[:index]]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self.target)
        connection = Connection(self)
        with suppress(ConnectionError):
            await asyncio.gather(
                _hand_on(reader, server_writer, connection.client_says),
                _hand_on(server_reader, writer, connection.server_says),
            )


class Connection:
    """Finds the requests in what a client says, and the statuses in what the server answers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._unanswered: list[dict[str, Any]] = []
        self._begin(b"")

    def _begin(self, data: bytes) -> None:
        self._parser, self._body = h11.Connection(h11.SERVER), b""
        self.client_says(data)

    def client_says(self, data: bytes) -> None:
        if not data:
            return
        self._parser.receive_data(data)
        while (event := self._parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self._request = {
                    "method": event.method.decode(),
                    "path": event.target.decode(),
                    "headers": {name: headers[name] for name in HEADERS if name in headers},
                }
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                body = {"body": json.loads(self._body)} if self._body else {}
                self._unanswered.append({**self._request, **body})
                self._begin(self._parser.trailing_data[0])
                return

    def server_says(self, data: bytes) -> None:
        if self._unanswered and data.startswith(b"HTTP/1.1 "):
            request = self._unanswered.pop(0)
            self._recorder.requests.append({**request, "status": int(data[9:12])})


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Any) -> None:
    try:
        while data := await reader.read(65536):
            watch(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
