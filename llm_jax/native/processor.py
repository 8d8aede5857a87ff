"""The level that runs on this processor, or why none does and what to do."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from llm_jax.errors import ConfigError
from llm_jax.native.level import Level
from llm_jax.native.library import LEVELS, find, machine

VARIABLE = "LLM_JAX_KERNELS"
NATIVE = {name: tuple(Level[Path(file).stem.upper()] for file in files) for name, files in LEVELS.items()}


@dataclass(frozen=True)
class Status:
    """The kernels of a process on a CPU.

    Attributes:
        level: the highest level that runs.
        reason: where that is XLA: why, and what to do.
    """

    level: Level
    reason: str | None = None


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, None where it is not there or cannot be loaded."""
    path = find()
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None


@lru_cache(maxsize=1)
def status() -> Status:
    """What runs here on a CPU.

    Raises:
        ConfigError: LLM_JAX_KERNELS names no level of this architecture.
    """
    wanted, library = _requested(), load()
    if wanted == Level.XLA:
        return Status(Level.XLA, f"{VARIABLE} is xla; unset it for native kernels")
    if library is None:
        return Status(Level.XLA, _why_missing())
    library.llm_level.restype = ctypes.c_int64
    level = Level(library.llm_level())
    if level == Level.XLA:
        return Status(level, "this processor has no AVX2, which the native kernels need")
    return Status(level if wanted is None else min(level, wanted))


def _requested() -> Level | None:
    """What LLM_JAX_KERNELS allows at most; None where it is not set.

    Raises:
        ConfigError: it names no level of this architecture.
    """
    name = os.environ.get(VARIABLE)
    if name is None:
        return None
    allowed = {level.name.lower(): level for level in (Level.XLA, *NATIVE.get(machine(), ()))}
    if name.lower() not in allowed:
        raise ConfigError(f"{VARIABLE} is {name!r}; it must be one of {', '.join(allowed)}.")
    return allowed[name.lower()]


def features() -> tuple[Level, ...]:
    """All levels that can be asked for on this processor, XLA first.

    Raises:
        ConfigError: as `status`.
    """
    best = status().level
    return (Level.XLA, *(level for level in NATIVE.get(machine(), ()) if level <= best))


def _why_missing() -> str:
    if sys.platform != "linux" or machine() not in LEVELS:
        names = " and ".join(LEVELS)
        return f"native kernels are for Linux on {names}; this is {sys.platform} on {machine()}"
    path = find()
    if path is not None:
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return f"{path} cannot be loaded ({error}); delete it and run: python -m llm_jax.native.build"
    return (
        "no native library is installed for this version; install a wheel that has it, "
        "or a C++ compiler and run: python -m llm_jax.native.build"
    )
