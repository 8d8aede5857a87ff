"""Compiles the native library: `python -m llm_jax.kernels.cpu.build`.

One shared library serves every x86-64 processor: each level's file is compiled with its own flags, and a level is
chosen at run time.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llm_jax.kernels.cpu.library import COMMON, FLAGS, SOURCES, directories, file_name, find


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def build() -> Path:
    """Compiles the library unless it is there already, and gives its path.

    Raises:
        BuildError: no compiler, another processor architecture, or the compiler's own error.
    """
    present = find()
    if present is not None:
        return present
    if platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux":
        raise BuildError(f"the native kernels are for Linux on x86-64; this is {sys.platform} on {platform.machine()}")
    compiler = _compiler()
    if compiler is None:
        raise BuildError("no C++ compiler found; install g++ or clang++, or name one in CXX")
    target = next((d for d in directories() if _is_writable(d)), None)
    if target is None:
        raise BuildError("neither the package directory nor the user's cache is writable")
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for name, flags in FLAGS.items():
            objects.append(f"{scratch}/{name}.o")
            _run(compiler, *COMMON, *flags, f"-I{_include()}", "-c", str(SOURCES / name), "-o", objects[-1])
        library = f"{scratch}/library.so"
        _run(compiler, "-shared", *objects, "-o", library)
        # Moved within one directory, so that another process sees the whole library or none.
        half = target / f".{os.getpid()}.so"
        shutil.copy(library, half)
        return half.rename(target / file_name())


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


def _include() -> str:
    import jaxlib

    return str(Path(jaxlib.__file__).parent / "include")


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(f"Not built: {error}. Everything works without it, on XLA's own kernels.")
