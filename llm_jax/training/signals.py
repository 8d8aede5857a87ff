"""Ctrl-C and SIGTERM set a flag that the loop reads between steps, instead of raising an exception anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import jax
from jax import Array
from jax.sharding import Mesh

from llm_jax import parallel


@dataclass
class StopRequest:
    """A signal to stop, which all processes of a run act upon after the same step.

    Attributes:
        received: the signal that this process received, None before one is.
        signum: the signal that the processes agree upon, as of the last `poll`.
        mesh: of a run of several processes.
    """

    received: int | None = None
    signum: int | None = None
    mesh: Mesh | None = None
    _asked: Array | None = None

    def poll(self) -> bool:
        """True where it is time to stop; every process calls it after the same steps.

        Several processes agree on what was received before the last call, so that nobody waits for an answer.
        """
        if self.mesh is None or jax.process_count() == 1:
            self.signum = self.received
        else:
            asked, self._asked = self._asked, parallel.largest(self.received or 0, self.mesh)
            self.signum = self.signum or (int(asked) if asked is not None else 0) or None
        return self.signum is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """The first SIGINT or SIGTERM is recorded; a second one acts as it did before.

    Only the main thread can install handlers: elsewhere this does nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def record(signum: int, frame: FrameType | None) -> None:
        request.received = signum
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, record)
    try:
        yield request
    finally:
        restore()
