"""Checks the wheels of a release: `python scripts/check_wheels.py dist [--install DIRECTORY]`.

Each must hold the native library of its platform, which needs nothing but the C library, at most of the version that
the platform's tag promises. With --install, the wheel for this machine is installed into an empty environment with no
compiler in PATH, where its kernels must run.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

C_LIBRARY = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
LOADER = re.compile(r"ld-linux[\w-]*\.so\.\d")


def library_of(wheel: Path) -> tuple[str, bytes]:
    """The name and the content of the native library in a wheel.

    Raises:
        SystemExit: there is none, or more than one.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if len(names) != 1:
            sys.exit(f"{wheel.name} holds {names or 'no library'}; it must hold one.")
        return names[0], archive.read(names[0])


def needed(library: bytes) -> set[str]:
    """The shared libraries that a library names."""
    return {name.decode() for name in re.findall(rb"[\w+-]+\.so\.\d+(?=\0)", library)}


def glibc(library: bytes) -> tuple[int, int]:
    """The newest version of the C library whose symbols a library uses."""
    versions = re.findall(rb"\0GLIBC_(\d+)\.(\d+)(?=[.\d]*\0)", library)
    return max((int(major), int(minor)) for major, minor in versions)


def check(wheel: Path) -> None:
    tag = re.fullmatch(r"llm-[^-]+-py3-none-manylinux_(\d+)_(\d+)_(\w+)\.whl", wheel.name)
    if tag is None:
        sys.exit(f"{wheel.name} has another tag than py3-none-manylinux_….")
    name, library = library_of(wheel)
    if f"native-{tag[3]}-" not in name:
        sys.exit(f"{wheel.name} holds {name}, which is for another architecture.")
    foreign = {name for name in needed(library) - C_LIBRARY if not LOADER.fullmatch(name)}
    if foreign:
        sys.exit(f"{name} needs {', '.join(sorted(foreign))}; link it statically.")
    if glibc(library) > (int(tag[1]), int(tag[2])):
        sys.exit(f"{name} needs glibc {glibc(library)}, newer than the tag of {wheel.name} says.")
    print(f"{wheel.name}: {Path(name).name}, {len(library):,} bytes, glibc {'.'.join(map(str, glibc(library)))}")


def check_installed(wheel: Path, directory: Path) -> None:
    """Installs a wheel into a new environment and generates a text there, with nothing else in PATH."""
    venv.create(directory, clear=True, with_pip=True)
    bin = directory.resolve() / "bin"
    environment = {**os.environ, "PATH": str(bin)}
    environment = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "CXX", "LLM_JAX_KERNELS")}
    if any(shutil.which(name, path=str(bin)) for name in ("c++", "g++", "clang++")):
        sys.exit(f"there is a compiler in {bin}")
    lock = Path(__file__).parents[1] / "requirements.lock"
    pip = [bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", lock]
    subprocess.run([*pip, f"{wheel.resolve()}[serve]"], check=True, env=environment)
    version = subprocess.run(
        [bin / "llm-serve", "--version"], check=True, env=environment, cwd=directory, capture_output=True, text=True
    ).stdout
    print(version, end="")
    if "kernels xla" in version:
        sys.exit("The native kernels do not run.")
    generate = [bin / "llm-generate", "--temperature", "0", "--max-new-tokens", "8", "Once upon a time"]
    subprocess.run(generate, check=True, env=environment, cwd=directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path, help="folder of the wheels")
    parser.add_argument("--install", type=Path, metavar="DIRECTORY", help="where to make the empty environment")
    arguments = parser.parse_args()
    wheels = sorted(arguments.dist.glob("*.whl"))
    if not wheels:
        sys.exit(f"There is no wheel in {arguments.dist}.")
    for wheel in wheels:
        check(wheel)
    if arguments.install is not None:
        check_installed(next(w for w in wheels if w.stem.endswith(platform.machine())), arguments.install)


if __name__ == "__main__":
    main()
