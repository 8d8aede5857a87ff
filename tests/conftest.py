"""One cache of compiled programs for all tests, their worker processes and the commands that they start."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """The programs of a file's tests go with it: each takes some 10 MB, and a worker process runs dozens of files."""
    yield
    import jax

    from llm_jax import programs
    from llm_jax.memory import return_freed_memory

    programs.prepared.clear()
    jax.clear_caches()
    gc.collect()
    return_freed_memory()
