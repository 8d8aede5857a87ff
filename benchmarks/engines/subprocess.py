"""A contender in a process of its own: one that crashes, or is killed for its memory, ends that process alone."""

from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.engines.interface import Absent, Contender, Decoding
from benchmarks.weights import Weights
from llm_jax.kernels import WeightDtype


class Apart:
    """Passes calls on; a process that died is replaced at the next one.

    Every call raises Absent for whatever went wrong over there.
    """

    def __init__(
        self, kind: type[Contender], weights: Weights, dtype: WeightDtype, *, max_batch: int, max_len: int
    ) -> None:
        self.name = kind.name
        self._make = partial(kind, weights, dtype, max_batch=max_batch, max_len=max_len)
        self._start()
        self.note: str = self._ask("note")

    def prefill(self, tokens: int) -> float:
        return self._ask("prefill", tokens)

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        return self._ask("decode", batch, context, steps)

    def close(self) -> None:
        self._wire.close()
        self._process.join()

    def _start(self) -> None:
        context = get_context("spawn")  # JAX's threads do not survive a fork
        self._wire, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def _ask(self, what: str, *arguments: int) -> Any:
        if self._wire.closed:
            self._start()
        try:
            self._wire.send((what, arguments))
            answer = self._wire.recv()
        except (EOFError, OSError):
            self.close()
            raise Absent(f"its process died, exit code {self._process.exitcode}") from None
        if isinstance(answer, Absent):
            raise answer
        return answer


def _serve(wire: Connection, make: partial[Contender]) -> None:
    """Answers until the other end closes."""
    contender: Contender | None = None
    while True:
        try:
            what, arguments = wire.recv()
        except EOFError:
            return
        try:
            contender = contender or make()
            wire.send(contender.note if what == "note" else getattr(contender, what)(*arguments))
        except Absent as reason:
            wire.send(reason)
        except Exception as error:
            wire.send(Absent(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
