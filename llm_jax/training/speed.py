"""How fast a run is, beside what the device can do, and how much memory it has needed."""

import resource
import sys
import time
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from llm_jax.kernels import linear


@dataclass
class Speed:
    """Rates of the steps alone: validating and saving are left out.

    Attributes:
        step_flops: floating-point operations of a step that no choice of method avoids; 0 where they are unknown.
        peak: the most of them that this device does in a second.
    """

    step_flops: float = 0.0
    peak: float = 1.0
    _weight: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _start: float = field(default_factory=time.perf_counter, init=False)

    def restart(self) -> None:
        self._weight, self._steps, self._start = 0.0, 0, time.perf_counter()

    def add(self, weight: float) -> None:
        self._weight += weight
        self._steps += 1

    def measured(self) -> dict[str, float]:
        """Tokens or samples per second, the share of the device's peak rate (MFU), and the largest memory so far."""
        seconds = time.perf_counter() - self._start
        rates = {"per_second": round(self._weight / seconds, 1), "peak_memory": peak_memory()}
        if self.step_flops:
            rates["mfu"] = round(self.step_flops * self._steps / seconds / self.peak, 4)
        return rates


def peak_flops(dtype: jnp.dtype, *, size: int = 1024, runs: int = 4) -> float:
    """Floating-point operations per second of a product of square matrices made as a step's are, the best of a few."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(linear)
    product(x, x).block_until_ready()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def peak_memory() -> int:
    """Bytes that this process has had at most: of the device, or of the host where that is the device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
