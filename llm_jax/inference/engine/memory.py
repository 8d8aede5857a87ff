"""Check of free memory before the caches are allocated."""

from pathlib import Path
from typing import Any

import jax

from llm_jax.errors import ConfigError

_GB = 1e9


def check_memory(shapes: Any, what: str, remedy: str, *, devices: int = 1) -> None:
    """Refuses arrays that do not fit into free memory. Does nothing where that is unknown.

    Args:
        shapes: a tree of arrays or their shapes.
        what, remedy: for the message.
        devices: how many share the arrays.

    Raises:
        ConfigError: they do not fit.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    free = _free_bytes(devices)
    if free is not None and needed > free:
        raise ConfigError(f"{what} takes {needed / _GB:.1f} GB, and {free / _GB:.1f} GB of memory are free; {remedy}.")


def _free_bytes(devices: int) -> int | None:
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return devices * int(stats["bytes_limit"] - stats["bytes_in_use"])
    if device.platform != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields["MemAvailable"].split()[0])
