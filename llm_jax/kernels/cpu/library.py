"""The native library's file, and what it is built from.

The file name carries a digest of sources, flags and jaxlib's version: a library built from anything else is never
loaded. The compiler is left out of it, so that a machine without one can use what another has built.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxlib.version import __version__ as jaxlib_version

PACKAGE = Path(__file__).parent
SOURCES = PACKAGE / "src"
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
FLAGS = {
    "avx2.cc": AVX2,
    "avx512.cc": AVX512,
    "avx512_bf16.cc": (*AVX512, "-mavx512bf16"),
    "amx.cc": (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    "level.cc": (),
    "calls.cc": (),
    "pack.cc": (),
}
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")


def find() -> Path | None:
    """The library that was built from these sources, None where there is none."""
    return next((d / file_name() for d in directories() if (d / file_name()).exists()), None)


def directories() -> Iterator[Path]:
    yield PACKAGE
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_jax"


def file_name() -> str:
    digest = hashlib.sha256(repr((jaxlib_version, COMMON, FLAGS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return f"native-{digest.hexdigest()[:16]}.so"
