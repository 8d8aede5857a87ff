"""The native library's file, and what it is built from.

The file name carries the processor architecture, the version of XLA's foreign function interface whose headers it was
compiled with, and a digest of sources and flags: a library built from other sources is never loaded. XLA supports
libraries that were built for an older interface (for twelve months at least), and refuses newer ones, with which it
does not start at all. The compiler is not part of the name, so that a machine without one can use what another built.
"""

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent
SOURCES = PACKAGE.parent / "kernels" / "cpu" / "src"

AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
# By architecture: the files that only it has, and their flags. All other files are compiled for every architecture.
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2.cc": AVX2,
        "avx512.cc": AVX512,
        "avx512_bf16.cc": (*AVX512, "-mavx512bf16"),
        "amx.cc": (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    },
    "aarch64": {
        "neon.cc": (),
        "dotprod.cc": (),
    },
}
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")
LINK = ("-shared", "-s")


def machine() -> str:
    """The processor architecture, as Linux names it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def flags(architecture: str) -> dict[str, tuple[str, ...]]:
    """The files to compile for an architecture, and the flags of each."""
    levels = LEVELS[architecture]
    others = {name for names in LEVELS.values() for name in names} - set(levels)
    return {path.name: levels.get(path.name, ()) for path in sorted(SOURCES.glob("*.cc")) if path.name not in others}


def file_name(architecture: str, interface: tuple[int, int]) -> str:
    digest = hashlib.sha256(repr((COMMON, LINK, LEVELS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return f"native-{architecture}-ffi{interface[0]}.{interface[1]}-{digest.hexdigest()[:16]}.so"


def find() -> Path | None:
    """The library that was built from these sources and that the installed jaxlib takes, None where there is none."""
    known = interface_version()
    if known is None:
        return None
    major, newest = known
    paths = (d / file_name(machine(), (major, minor)) for minor in range(newest, 0, -1) for d in directories())
    return next((path for path in paths if path.exists()), None)


def directories() -> Iterator[Path]:
    yield PACKAGE
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_jax"


def headers() -> Path | None:
    """The folder of C++ headers that comes with the installed jaxlib, which is not imported for it."""
    spec = find_spec("jaxlib")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) / "include" if folders else None


def interface_version() -> tuple[int, int] | None:
    """Major and minor version of XLA's foreign function interface in the installed jaxlib."""
    include = headers()
    header = None if include is None else include / "xla" / "ffi" / "api" / "c_api.h"
    if header is None or not header.exists():
        return None
    found = dict(re.findall(r"^#define XLA_FFI_API_(MAJOR|MINOR) (\d+)$", header.read_text(), re.MULTILINE))
    return int(found["MAJOR"]), int(found["MINOR"])
