"""An engine in a subprocess, so that a crash, or being killed for its memory, does not end the benchmark."""

from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.engines.interface import BenchmarkEngine, Decoding, Unavailable
from benchmarks.weights import Weights
from llm_jax.model import ModelDtype


class InSubprocess:
    """Forwards calls to an engine in a subprocess; the call after the process died starts a new one.

    Every call raises Unavailable for any exception in the subprocess, and where it died.
    """

    def __init__(
        self, engine: type[BenchmarkEngine], weights: Weights, dtype: ModelDtype, *, max_batch: int, max_len: int
    ) -> None:
        self.name = engine.name
        self._make = partial(engine, weights, dtype, max_batch=max_batch, max_len=max_len)
        self._start()
        self.note: str = self._call("note")

    def prefill(self, tokens: int) -> float:
        return self._call("prefill", tokens)

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        return self._call("decode", batch, context, steps)

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _start(self) -> None:
        context = get_context("spawn")  # JAX's threads do not survive a fork
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, self._make), daemon=True)
        self._process.start()
        child.close()  # so that the pipe ends with the process

    def _call(self, name: str, *arguments: int) -> Any:
        if self._connection.closed:
            self._start()
        try:
            self._connection.send((name, arguments))
            answer = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise Unavailable(f"its process died, exit code {self._process.exitcode}") from None
        if isinstance(answer, Unavailable):
            raise answer
        return answer


def _serve(connection: Connection, make: partial[BenchmarkEngine]) -> None:
    """Answers until the other end closes."""
    engine: BenchmarkEngine | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            engine = engine or make()
            connection.send(engine.note if name == "note" else getattr(engine, name)(*arguments))
        except Unavailable as reason:
            connection.send(reason)
        except Exception as error:
            connection.send(Unavailable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
