"""A real `llm-serve` process, its address and its log."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

MAX_BATCH = 4  # the same for all, so that all but the first find their programs in the session's cache
START = 240  # seconds within which a server must be ready, on a machine that is busy with other tests


class Server:
    """A running server. `log` has its lines so far, parsed."""

    def __init__(self, *flags: str, **settings: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.serve", "--port=0", "--device=cpu", f"--max-batch={MAX_BATCH}", *flags],
            env={
                **os.environ,
                **{f"LLM_SERVING_{name.upper()}": str(value) for name, value in settings.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._arriving: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for("listening")["url"]

    def wait_for(self, event: str, **fields: object) -> dict[str, Any]:
        """The next line of the log with this event and these fields."""
        while True:
            line = self._arriving.get(timeout=START)
            assert line is not None, f"the server ended: {self.process.stderr and self.process.stderr.read()}"
            if line["event"] == event and fields.items() <= line.items():
                return line

    def metrics_text(self, **headers: str) -> str:
        return httpx.get(f"{self.url}/metrics", headers=headers).text

    def metric(self, name: str, **headers: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.metrics_text(**headers).splitlines()
        samples = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return sum(float(value) for sample, value in samples if sample.split("{")[0] == name)

    def stop(self) -> int:
        """Asks it to end, as an orchestrator would, and waits until it has."""
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout
        for text in self.process.stdout:
            line = json.loads(text)
            self.log.append(line)
            self._arriving.put(line)
        self._arriving.put(None)


def exchange(server: Server, *pieces: bytes, half_close: bool = False) -> bytes:
    """Everything that comes back until the server closes; one that refuses need not read all that is sent."""
    address = httpx.URL(server.url)
    received = b""
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection, suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            received += data
    return received


@contextmanager
def running(*flags: str, **settings: object) -> Iterator[Server]:
    """A server that is ready."""
    server = Server(*flags, **settings)
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.stop()
