"""What is published: a wheel that holds the native kernels, and a source distribution that they can be built from."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llm_jax import native
from llm_jax.native.build import BuildError, build_into
from llm_jax.native.library import LEVELS, SOURCES, file_name, flags, interface_version

ROOT = Path(__file__).parents[1]
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "llm_jax", "llm_torch_compat", "llm", "server", "cli")
INCOMPATIBLE = (0, 99)  # an interface that no jaxlib has


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout, in which the library was built already."""
    source = tmp_path_factory.mktemp("packaging")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (source / "llm_jax" / "native" / file_name("x86_64", INCOMPATIBLE)).write_bytes(b"of another build")
    command = [sys.executable, "setup.py", "--quiet", "sdist", "bdist_wheel"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return source / "dist"


def test_the_wheel_has_the_library_that_this_checkout_runs_and_no_other(published: Path) -> None:
    (wheel,) = published.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
        (metadata,) = [archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/WHEEL")]
    present = native.find()
    if present is None:  # a machine without a compiler
        assert (libraries, wheel.stem.split("-")[2:]) == ({}, ["py3", "none", "any"])
        return
    assert list(libraries) == [f"llm_jax/native/{present.name}"]
    assert wheel.stem.split("-", 2)[2] == f"py3-none-linux_{native.machine()}"
    assert "Root-Is-Purelib: false" in metadata


def test_the_source_distribution_has_every_source_and_no_library(published: Path) -> None:
    (archive,) = published.glob("*.tar.gz")
    unpacked = published / "unpacked"
    shutil.unpack_archive(archive, unpacked)
    (root,) = unpacked.iterdir()
    names = {path.name for path in (root / SOURCES.relative_to(ROOT)).iterdir()}
    assert names == {path.name for path in SOURCES.iterdir()}
    assert list(root.rglob("*.so")) == []


def test_levels_have_the_same_names_and_numbers_in_cpp() -> None:
    (enum,) = re.findall(r"enum LevelId : int64_t \{(.*?)\}", (SOURCES / "kernels.h").read_text(), re.DOTALL)
    names = [name.replace("BFloat16", "_BF16").upper() for name in re.findall(r"kLevel(\w+)", enum)]
    assert ["XLA", *names[1:]] == [level.name for level in native.Level]
    assert [int(number) for number in re.findall(r"= (\d+)", enum)] in ([], [int(level) for level in native.Level])


def test_every_source_is_compiled_for_some_architecture() -> None:
    compiled = {name for architecture in LEVELS for name in flags(architecture)}
    assert compiled == {path.name for path in SOURCES.glob("*.cc")}


@pytest.mark.parametrize(
    ("variables", "level", "reason"),
    [
        ({"LLM_JAX_KERNELS": "xla"}, "XLA", "LLM_JAX_KERNELS is xla; unset it for native kernels"),
        ({"LIBRARY": "none"}, "XLA", "or a C++ compiler and run: python -m llm_jax.native.build"),
        ({"LIBRARY": "damaged"}, "XLA", "cannot be loaded"),
        ({"LLM_JAX_KERNELS": "fast"}, None, "LLM_JAX_KERNELS is 'fast'; it must be one of xla, "),
    ],
)
def test_why_no_native_kernels_run(variables: dict[str, str], level: str | None, reason: str, tmp_path: Path) -> None:
    """In a copy of the package, so that nothing else finds a library there."""
    shutil.copytree(ROOT / "llm_jax", tmp_path / "llm_jax", ignore=shutil.ignore_patterns("*.so", "demo"))
    if variables.get("LIBRARY") == "damaged":
        interface = interface_version()
        assert interface is not None
        name = file_name(native.machine(), interface)
        (tmp_path / "llm_jax" / "native" / name).write_bytes(b"not a library")
    code = "from llm_jax import native; s = native.status(); print(s.level.name, s.reason)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert reason in done.stdout + done.stderr
    assert level is None or done.stdout.startswith(level)


def test_a_library_for_a_newer_interface_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's CPU backend does not start with one."""
    interface = interface_version()
    assert interface is not None
    monkeypatch.setattr("llm_jax.native.library.directories", lambda: iter([tmp_path]))
    for minor, expected in ((interface[1] + 1, False), (interface[1], True), (interface[1] - 1, True)):
        path = tmp_path / file_name(native.machine(), (interface[0], minor))
        path.touch()
        assert (native.find() == path) == expected
        path.unlink()


def test_a_build_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found; install g\+\+ or clang\+\+, or name one in CXX"):
        build_into(tmp_path, "x86_64")
    monkeypatch.setenv("CXX", "missing-c++ -m64")
    with pytest.raises(BuildError, match=r"CXX is 'missing-c\+\+ -m64', which is not there"):
        build_into(tmp_path, "x86_64")
    with pytest.raises(BuildError, match=r"for Linux on x86_64.*; this is linux on riscv64"):
        build_into(tmp_path, "riscv64")
