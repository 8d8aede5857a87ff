"""Tests the levels of another architecture: `python scripts/test_levels.py aarch64 qemu-aarch64-static`.

CXX compiles tests/kernels/levels.cc with the sources of the levels into a static program, and the emulator runs it,
once as a processor with few extensions and once as one with all.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llm_jax.native.library import COMMON, SOURCES, flags  # noqa: E402 (found by the path above)

FEW_EXTENSIONS = {"aarch64": "cortex-a57"}
XLA = "xla/ffi"  # what only the calls from XLA include


def main() -> None:
    architecture, emulator = sys.argv[1:]
    compiler = shlex.split(os.environ["CXX"])
    with tempfile.TemporaryDirectory() as scratch:
        sources = {SOURCES / name: own for name, own in flags(architecture).items()}
        sources = {path: own for path, own in sources.items() if XLA not in path.read_text(encoding="utf-8")}
        sources[ROOT / "tests" / "kernels" / "levels.cc"] = ()
        objects = []
        for path, own in sources.items():
            objects.append(f"{scratch}/{path.name}.o")
            subprocess.run([*compiler, *COMMON, *own, f"-I{SOURCES}", "-c", path, "-o", objects[-1]], check=True)
        subprocess.run([*compiler, "-static", *objects, "-o", f"{scratch}/levels"], check=True)
        for processor in (FEW_EXTENSIONS[architecture], "max"):
            print(f"{processor}: ", end="", flush=True)
            subprocess.run([emulator, "-cpu", processor, f"{scratch}/levels"], check=True)


if __name__ == "__main__":
    main()
