"""What a start waits for, and in which order the rest is made."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from jax import Array

from llm_jax.inference.engine.program_set import Call, ProgramSet
from llm_jax.programs import program

may_trace = threading.Event()


@program(static=["number"])
def quick(x: Array, *, number: int) -> Array:
    return x + number


@program()
def late(x: Array) -> Array:
    may_trace.wait(60)
    return 2 * x


@pytest.fixture
def nothing_stored(tmp_path: Path) -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("nothing_stored")
def test_a_start_waits_for_needed_programs_alone_and_stored_ones_come_first_of_the_rest() -> None:
    x = jax.ShapeDtypeStruct((17,), "float32")
    needed, stored = (Call(f"quick {number}", quick, (), (x,), {"number": number}) for number in (1, 2))
    needed = replace(needed, is_needed=True)
    stored.make()
    programs = ProgramSet()
    programs.prepare([Call("late", late, (), (x,), {}), stored, needed], complete=False)
    try:
        assert needed.name in programs.ready
        assert (programs.missing > 0, "late" in programs.ready) == (True, False)
    finally:
        may_trace.set()
    assert programs._thread is not None
    programs._thread.join()
    assert [*programs.ready] == [needed.name, stored.name, "late"]
    assert programs.missing == 0
    programs.close()
