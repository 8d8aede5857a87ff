"""Steps that the device is working on, and how long they take."""

import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llm_jax.inference.engine.pace import Pace
from llm_jax.inference.engine.scheduler import Job


@dataclass(frozen=True)
class _Flight:
    program: Hashable
    sent_at: float
    result: Any
    awaited: Sequence[tuple[Job, int]]


class Flights:
    """A line of results that are still being computed, oldest first; `pace` learns from each."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._flights: deque[_Flight] = deque()
        self._landed_at = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def send(self, program: Hashable, result: Any, awaited: Sequence[tuple[Job, int]] = ()) -> None:
        """Notes a step that was just sent: arrays to wait for, and which jobs await which row of them."""
        self._flights.append(_Flight(program, time.perf_counter(), result, awaited))

    def land(self, keep: int) -> Iterator[tuple[Any, Sequence[tuple[Job, int]]]]:
        """Waits for the oldest steps, until `keep` are left; gives each one's result on the host and who awaits it."""
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            result = jax.tree.map(np.asarray, flight.result)
            now = time.perf_counter()
            self.pace.note(flight.program, now - max(self._landed_at, flight.sent_at))
            self._landed_at = now
            yield result, flight.awaited

    def clear(self) -> None:
        self._flights.clear()
