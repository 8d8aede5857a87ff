"""One cache of compiled programs for all tests, their worker processes and the commands that they start."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, database=None)
settings.load_profile("reproducible")

# Tests run on all cores at once: more threads of PyTorch's than one each only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

GROWTH = 800_000_000  # bytes of programs that a process may gather before it lets them go
least_resident = 0


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """A compiled program takes some 10 MB, and a process runs thousands of tests: now and then all are dropped."""
    global least_resident
    yield
    resident = psutil.Process().memory_info().rss
    least_resident = min(least_resident or resident, resident)
    if resident < least_resident + GROWTH:
        return
    import jax

    from llm_jax import programs
    from llm_jax.memory import return_freed_memory

    programs.prepared.clear()
    jax.clear_caches()
    gc.collect()
    return_freed_memory()
    least_resident = psutil.Process().memory_info().rss
