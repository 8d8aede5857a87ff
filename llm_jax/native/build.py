"""Compiles the native library: `python -m llm_jax.native.build`.

One shared library serves every processor of an architecture: each level's file is compiled with its own flags, and a
level is chosen at run time.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llm_jax.native.library import (
    COMMON,
    LEVELS,
    LINK,
    SOURCES,
    directories,
    file_name,
    find,
    flags,
    headers,
    interface_version,
    machine,
)


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def build() -> Path:
    """Compiles the library for this machine unless it is there already, and gives its path.

    Raises:
        BuildError: as `build_into`, or no directory is writable.
    """
    present = find()
    if present is not None:
        return present
    target = next((d for d in directories() if _is_writable(d)), None)
    if target is None:
        raise BuildError("neither the package directory nor the user's cache is writable")
    return build_into(target, machine())


def build_into(directory: Path, architecture: str) -> Path:
    """Compiles the library for an architecture, which the compiler must be one for.

    Raises:
        BuildError: no compiler, no headers, an architecture without kernels, or the compiler's own error.
    """
    if architecture not in LEVELS or sys.platform != "linux":
        names = " and ".join(LEVELS)
        raise BuildError(f"the native kernels are for Linux on {names}; this is {sys.platform} on {architecture}")
    compiler, include, interface = _compiler(), headers(), interface_version()
    if interface is None:
        raise BuildError("jaxlib, whose headers are needed, is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for name, own in flags(architecture).items():
            objects.append(f"{scratch}/{name}.o")
            _run(*compiler, *COMMON, *own, f"-I{include}", "-c", str(SOURCES / name), "-o", objects[-1])
        library = f"{scratch}/library.so"
        _run(*compiler, *LINK, *objects, "-o", library)
        # Moved within one directory, so that another process sees the whole library or none.
        half = directory / f".{os.getpid()}.so"
        shutil.copy(library, half)
        return half.rename(directory / file_name(architecture, interface))


def can_build() -> bool:
    """Whether a compiler and the headers are there."""
    try:
        return bool(_compiler()) and interface_version() is not None and sys.platform == "linux"
    except BuildError:
        return False


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    if named and shutil.which(named[0]) is None:
        raise BuildError(f"CXX is {' '.join(named)!r}, which is not there")
    found = named or [name for name in ("g++", "clang++", "c++") if shutil.which(name)][:1]
    if not found:
        raise BuildError("no C++ compiler found; install g++ or clang++, or name one in CXX")
    return found


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(f"Not built: {error}. Everything works without it, on XLA's own kernels.")
