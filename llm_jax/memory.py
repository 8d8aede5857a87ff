"""Amounts of memory as people write them, how much is free, and what can be given back."""

import ctypes
import gc
import mmap
import re
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_jax.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|[KMG]?I?B|)\s*", re.IGNORECASE)


def parse_memory(amount: int | str, free: int | None) -> float:
    """Bytes of an amount such as `2GB`, `512MiB`, `50%` of what is free, or a plain number of bytes.

    >>> parse_memory("1.5GB", free=None), parse_memory("50%", free=1000)
    (1500000000.0, 500.0)

    Args:
        free: bytes, None where that is unknown: then a share of it is infinite.

    Raises:
        ConfigError: it is no such amount, or nothing.
    """
    match = _AMOUNT.fullmatch(str(amount))
    if match is None or not float(match[1]):
        raise ConfigError(f"{amount!r} is no amount of memory; give one such as 2GB, 512MiB or 50% (of what is free).")
    if match[2] == "%":
        return float("inf") if free is None else float(match[1]) / 100 * free
    return float(match[1]) * _UNITS[match[2].upper()]


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file, read when they are used and not before. Raises OSError, and ValueError where it is empty."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _mapped.add(data)
    return data


def return_freed_memory() -> None:
    """Gives back what a program does not need: what it freed, which glibc's malloc keeps for later, and what it read of
    mapped files, which the system reads again where it is wanted once more."""
    for data in _mapped if hasattr(mmap, "MADV_DONTNEED") else ():
        if not data.closed:
            data.madvise(mmap.MADV_DONTNEED)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Around the imports of a command: they make hundreds of thousands of objects and no garbage, so that looking for
    some, then or later or at the end, is a quarter of a short command's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def free_memory() -> int | None:
    """Bytes of the host's memory that a program can still have; None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields["MemAvailable"].split()[0])
