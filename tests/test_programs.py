"""Programs that are stored on disk: found again by another process, wherever they lie, and never trusted blindly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import programs
from llm_jax.inference.engine.stats import compilations
from llm_jax.programs import Program, folder, program

SCRIPT = """
import json, sys
import jax
import numpy as np
from llm_jax.inference.engine.stats import compilations
from llm_jax.programs import folder, program

@program(static=["power"], donate=["x"])
def raised(x, y, *, power):
    return {"sum": x + y**power, "product": jax.nn.softmax(x * y)}

x, y = np.linspace(0, 1, 7, dtype="float32"), np.linspace(2, 3, 7, dtype="float32")
before = compilations()
run = raised.prepare(x, y, power=3)
result = jax.tree.map(lambda value: np.asarray(value).tobytes().hex(), run(x, y))
print(json.dumps({"result": result, "compiled": compilations() - before, "folder": str(folder())}))
"""


def start(**environment: str) -> dict[str, object]:
    """What a new process says; variables of the caches are those given alone."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return json.loads(script.stdout)


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Path:
    """A folder of its own."""
    monkeypatch.setattr(programs, "folder", lambda: tmp_path)
    return tmp_path


def doubled() -> Program:
    """The function with none of its programs in memory, as another process has it."""
    programs.prepared.clear()

    def double(x):
        return 2 * x

    return program()(double)


X = np.arange(5, dtype=np.float32)


def compiles(run) -> int:
    before = compilations()
    run()
    return compilations() - before


def test_another_process_compiles_nothing_and_gets_the_same_bits(tmp_path):
    first = start(XDG_CACHE_HOME=str(tmp_path / "one"))
    assert first["compiled"] == 1
    assert first["folder"] == str(tmp_path / "one" / "llm" / "programs")
    assert start(XDG_CACHE_HOME=str(tmp_path / "one")) == first | {"compiled": 0}

    (tmp_path / "one").rename(tmp_path / "two")
    moved = start(XDG_CACHE_HOME=str(tmp_path / "two"))
    assert (moved["compiled"], moved["result"]) == (0, first["result"])


def test_a_directory_that_the_caller_chose_for_jax_is_used(tmp_path):
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = start(**environment)
    assert first["folder"] == str(tmp_path)
    assert start(**environment) == first | {"compiled": 0}
    # What JAX loads from its own cache cannot be serialised: the program must not come from there.
    [ours] = tmp_path.glob("*.program")
    ours.unlink()
    assert [start(**environment) for _ in range(2)] == [first, first | {"compiled": 0}]


def test_other_flags_of_xla_are_other_programs(tmp_path):
    start(XDG_CACHE_HOME=str(tmp_path))
    assert start(XDG_CACHE_HOME=str(tmp_path), XLA_FLAGS="--xla_cpu_enable_fast_min_max=true")["compiled"] == 1


def test_shapes_and_types_and_static_arguments_tell_programs_apart(stored):
    @program(static=["n"])
    def repeat(x, *, n):
        return jnp.tile(x, n)

    assert not repeat.is_kept(X, n=2)
    repeat.prepare(jax.ShapeDtypeStruct(X.shape, X.dtype), n=2)
    assert repeat.is_kept(X, n=2)
    assert repeat.is_kept(jnp.asarray(X), n=2)
    assert not repeat.is_kept(X, n=3)
    assert not repeat.is_kept(X[1:], n=2)
    assert not repeat.is_kept(X.astype(np.int32), n=2)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:500] + b"?" + b[501:], lambda _: b""])
def test_a_damaged_program_is_compiled_anew_and_mended(stored, damage):
    doubled().prepare(X)
    [path] = stored.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert compiles(lambda: doubled().prepare(X)) == 1
    assert compiles(lambda: np.testing.assert_array_equal(doubled().prepare(X)(X), 2 * X)) == 0


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(programs, "folder", lambda: tmp_path / "file" / "programs")
    np.testing.assert_array_equal(doubled().prepare(X)(X), 2 * X)


def test_the_least_recently_used_make_room(stored, monkeypatch):
    doubled().prepare(X)
    [first] = stored.iterdir()
    monkeypatch.setattr(programs, "MAX_BYTES", int(3.5 * first.stat().st_size))
    shapes = [np.zeros(size, np.float32) for size in (6, 7, 8)]
    for age, shape in enumerate(shapes[:2]):
        doubled().prepare(shape)
        os.utime(first, ns=(age, age))
    assert compiles(lambda: doubled().prepare(X)) == 0  # used now
    doubled().prepare(shapes[2])
    assert [doubled().is_kept(shape) for shape in (X, shapes[2])] == [True, True]
    assert sum(doubled().is_kept(shape) for shape in shapes[:2]) == 1


def test_nothing_is_kept_where_the_cache_is_off_or_elsewhere(monkeypatch):
    enabled, directory = jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
        assert folder() is None
        jax.config.update("jax_compilation_cache_dir", None)
        assert folder() is not None
        jax.config.update("jax_enable_compilation_cache", False)
        assert folder() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        jax.config.update("jax_compilation_cache_dir", directory)
