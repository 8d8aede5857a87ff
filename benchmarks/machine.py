"""A description of this machine, and its peak rates: bytes read and operations done per second."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp

from llm_jax.kernels import WeightDtype, best_level, features, matmul, pack

PROBE_BYTES = 2**29
FLAGS = {"amx_tile": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 bf16", "avx2": "AVX2"}
PACKAGES = ("jax", "transformers", "torch", "llama-cpp-python")


def best(run: Callable[..., object], *arguments: object, seconds: float = 0.6) -> float:
    """Seconds of the fastest of many runs, after one that warms up."""
    jax.block_until_ready(run(*arguments))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


class Memory:
    """A probe of memory bandwidth: a matrix larger than any core's cache, read by JAX's device."""

    def __init__(self, nbytes: int = PROBE_BYTES) -> None:
        size_in = 4096
        self._plain = jnp.ones((nbytes // 4 // size_in, size_in), jnp.float32)
        self._packed = pack(self._plain, "float32")
        self._vector = jnp.ones((1, size_in), jnp.float32)
        self._sum = jax.jit(lambda x: x.sum(1))
        self._product = jax.jit(matmul)

    def bandwidth(self, seconds: float = 0.6) -> float:
        """Bytes per second of the fastest of several reads: XLA's sum, or a product with one row."""
        by_sum = self._plain.nbytes / best(self._sum, self._plain, seconds=seconds / 2)
        by_product = self._packed.nbytes / best(self._product, self._vector, self._packed, seconds=seconds / 2)
        return max(by_sum, by_product)


def matmul_rate(dtype: WeightDtype, *, rows: int = 512, size_in: int = 2048, size_out: int = 4096) -> float:
    """Operations per second (a multiply and an add are two) of this project's fastest matrix product."""
    x = jax.random.normal(jax.random.key(0), (rows, size_in))
    weight = jax.random.normal(jax.random.key(1), (size_out, size_in))
    times = [best(jax.jit(matmul), x, pack(weight, dtype, level=level)) for level in {features()[0], features()[-1]}]
    if dtype != "int8":
        times.append(best(jax.jit(lambda x, w: x @ w.T), x.astype(dtype), weight.astype(dtype)))
    return 2 * rows * size_in * size_out / min(times)


def describe() -> dict[str, str]:
    """Processor or GPU, memory, versions and date, to print beside figures."""
    device = jax.devices()[0]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": date.today().isoformat(),
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "kernels": best_level().name.lower(),
        "memory": f"{gib:.0f} GiB",
        "python": platform.python_version(),
    } | {name: version for name in PACKAGES if (version := _version(name))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cores, info = os.cpu_count(), Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor() or platform.machine())
    known = [label for flag, label in FLAGS.items() if flag in fields.get("flags", "").split()]
    return f"{cores} cores of {name}" + (f" ({', '.join(known)})" if known else "")
