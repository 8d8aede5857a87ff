"""The programs of one engine: those that are there, and those that are still being made."""

import atexit
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llm_jax.memory import return_freed_memory
from llm_jax.programs import Program

_LOADERS = 4  # threads that read programs from disk: more are not faster


@dataclass(frozen=True)
class Call:
    """A call of a program, or with shapes in place of arrays the making of one.

    Attributes:
        name: its static sizes.
        is_needed: some request can be served with no other.
        first: its static arguments, which come first; args: the others; options: static ones by name.
    """

    name: Hashable
    program: Program
    first: tuple[Any, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]
    is_needed: bool = False

    def make(self) -> Callable[..., Any]:
        """The program; loaded, or compiled."""
        return self.program.prepare(*self.first, *self.args, **self.options)

    def is_kept(self) -> bool:
        return self.program.is_kept(*self.first, *self.args, **self.options)

    def of_shapes(self) -> "Call":
        """The call without its arrays: those that it donates are gone when it is made later."""
        return replace(self, args=jax.tree.map(_shape, self.args))


class ProgramSet:
    """Programs by name. A missing one is made when it is called for.

    Attributes:
        missing: how many are still to be made, in a thread; meanwhile the caller should do with those that are there.
    """

    def __init__(self) -> None:
        self.ready: dict[Hashable, Callable[..., Any]] = {}
        self.missing = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, call: Call) -> Any:
        program = self.ready.get(call.name)
        if program is None:
            program = self.ready[call.name] = call.make()
            return_freed_memory()  # reading a program takes several times what stays of it
        return program(*call.args)

    def prepare(self, calls: Sequence[Call], *, complete: bool) -> None:
        """Makes the programs of these calls: the needed ones, then the others; of both first those that are on disk.

        Args:
            complete: False returns when those that are needed are there, and makes the others in a thread.
        """
        wanted = [call for call in calls if complete or call.is_needed]
        with ThreadPoolExecutor(_LOADERS) as pool:
            list(pool.map(self._make, filter(Call.is_kept, wanted)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._make, self._missing(wanted)))
        rest = self._missing(calls)
        if rest:
            self.missing = len(rest)
            self._thread = threading.Thread(target=self._make_all, args=(rest,), name="llm-programs", daemon=True)
            atexit.register(self.close)  # before JAX's own: it must not be at work when the interpreter ends
            self._thread.start()

    def close(self) -> None:
        """Ends the thread behind the program that it is making."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    def _missing(self, calls: Sequence[Call]) -> list[Call]:
        return [call for call in calls if call.name not in self.ready]

    def _make(self, call: Call) -> None:
        self.ready[call.name] = call.make()

    def _make_all(self, calls: Sequence[Call]) -> None:
        try:
            for call in sorted(calls, key=lambda call: not call.is_kept()):  # stable: else in their order
                if self._stop.is_set():
                    return
                self._make(call)
                self.missing -= 1
        finally:
            self.missing = 0


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None)
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)
