"""Hostile GGUF files: always a CheckpointError that names the file and the place, in little time and memory."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_jax.checkpoint import convert, open_model
from llm_jax.checkpoint.formats.gguf.reader import read_content
from llm_jax.errors import CheckpointError
from tests.checkpoint.families_of_transformers import make, save
from tests.checkpoint.gguf_files import metadata_of, with_entries
from tests.checkpoint.test_gguf import TOKENIZER
from tests.checkpoint.test_gguf_reader import write

UINT32, STRING, ARRAY, F32 = 4, 8, 9, 0
HUGE = (2**63, 2**63 - 1, 2**64 - 1, 2**40)


def text(value: str, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(value.encode()) if size is None else size) + value.encode()


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, *, shape: tuple[int, ...] = (8, 4), kind: int = F32, offset: int = 0, axes: int = -1) -> bytes:
    count = len(shape) if axes < 0 else axes
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def header(entries: list[bytes], tensors: list[bytes], *, counts: tuple[int, int] | None = None) -> bytes:
    """A file with 1 KB behind its tables."""
    counted = (len(tensors), len(entries)) if counts is None else counts
    return b"GGUF" + struct.pack("<IQQ", 3, *counted) + b"".join(entries) + b"".join(tensors) + bytes(1024)


HOSTILE = {
    **{f"{count} tensors": header([], [tensor("a")], counts=(count, 0)) for count in HUGE},
    **{f"{count} entries": header([entry("a", UINT32, bytes(4))], [], counts=(0, count)) for count in HUGE},
    **{f"a text of {size} bytes": header([entry("a", STRING, text("x", size))], []) for size in HUGE},
    **{f"a name of {size} bytes": header([text("x", size) + bytes(20)], []) for size in HUGE},
    **{
        f"an array of {size} of type {kind}": header([entry("a", ARRAY, struct.pack("<IQ", kind, size))], [])
        for size in HUGE
        for kind in (UINT32, STRING)
    },
    "an array of arrays": header([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))], []),
    "a value of an unknown type": header([entry("a", 77, bytes(8))], []),
    "an array of an unknown type": header([entry("a", ARRAY, struct.pack("<IQ", 77, 1))], []),
    "an entry twice": header([entry("a", UINT32, bytes(4))] * 2, []),
    "a tensor twice": header([], [tensor("a"), tensor("a", offset=128)]),
    "a tensor of an unknown type": header([], [tensor("a", kind=999)]),
    "a tensor of a removed type": header([], [tensor("a", kind=4)]),
    "an offset beyond the end": header([], [tensor("a", offset=4096)]),
    **{f"an offset of {offset}": header([], [tensor("a", offset=offset)]) for offset in HUGE},
    "a tensor that ends beyond the end": header([], [tensor("a", shape=(64, 8))]),
    "tensors that overlap": header([], [tensor("a"), tensor("b", offset=64)]),
    "one tensor within another": header([], [tensor("a", shape=(64,)), tensor("b", shape=(8,), offset=32)]),
    "no axes": header([], [tensor("a", shape=())]),
    "more axes than there are": header([], [tensor("a", axes=2**31)]),
    **{f"an axis of {size}": header([], [tensor("a", shape=(size, 4))]) for size in (0, *HUGE)},
    "axes whose product overflows": header([], [tensor("a", shape=(2**32, 2**32, 2**32))]),
    "rows that are no whole blocks": header([], [tensor("a", shape=(33, 4), kind=8)]),
    **{
        f"an alignment of {size}": header([entry("general.alignment", UINT32, struct.pack("<I", size))], [tensor("a")])
        for size in (0, 3, 2**32 - 1)
    },
    "an offset that is not aligned": header([], [tensor("a", offset=4)]),
    "another version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_refused_without_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"hostile\.gguf is damaged or cut short, at byte \d+, in "):
        read_content(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000  # bytes, most of them of the error


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hostile") / "small.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    TOKENIZER.save_pretrained(save(make("llama", {"vocab_size": TOKENIZER.vocab_size}), folder / "model"))
    convert(open_model(folder / "model"), folder / "model.gguf")
    return folder / "model.gguf"


def refused_by_name(read: Callable[[Path], Any], path: Path) -> Any:
    """What a file holds; None where it is refused, by an error that names it. Any other error fails the test."""
    try:
        return read(path)
    except CheckpointError as error:
        message = str(error)
    assert path.name in message
    return None


EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)
quickly = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edited(path: Path, edits: list[tuple[int, int]], target: Path) -> Path:
    """A copy with other bytes in its tables; places are counted around them."""
    content, tables = path.read_bytes(), bytearray(path.read_bytes())
    length = len(content) - sum(len(tensor.data) for tensor in read_content(path).tensors.values())
    for place, byte in edits:
        tables[4 + place % (length - 4)] = byte
    target.write_bytes(tables)
    return target


@settings(quickly, max_examples=2000)
@given(edits=EDITS)
def test_any_edit_of_a_file_leaves_it_readable_or_is_refused(
    small: Path, tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    path = edited(small, edits, tmp_path / "edited.gguf")
    content = refused_by_name(read_content, path)
    if content is not None:
        assert sum(len(tensor.data) for tensor in content.tensors.values()) <= path.stat().st_size


@settings(quickly, max_examples=300)
@given(edits=EDITS)
def test_any_edit_of_a_model_leaves_it_readable_or_is_refused(
    model: Path, tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    refused_by_name(open_model, edited(model, edits, tmp_path / "edited.gguf"))


VALUES: list[Any] = [0, 3, 2**31, 2**32 - 1, 1.5, float("nan"), float("inf"), "x", "", [1, 2], ["a"], True, False]


@pytest.mark.parametrize("lists", [False, True], ids=["tokenizer.json", "lists"])
def test_entries_of_any_value_are_taken_or_refused(model: Path, tmp_path: Path, lists: bool) -> None:
    """Counts of layers, heads and tokens among them: none is believed before it is compared with what is there."""
    if lists:
        model, _ = with_entries(model, tmp_path / "lists.gguf", {"tokenizer.huggingface.json": None})
    names = [name for name in metadata_of(model) if name != "general.architecture"]
    names += [f"llama.{name}" for name in ("rope.scaling.factor", "rope.scaling.type", "expert_count", "vocab_size")]
    for name in (*names, "general.alignment", "split.count", "split.tensors.count"):
        for value in VALUES:
            path, _ = with_entries(model, tmp_path / "changed.gguf", {name: value})
            refused_by_name(open_model, path)


def test_parts_that_lead_back_are_refused(model: Path, tmp_path: Path) -> None:
    with_entries(model, tmp_path / "x.gguf", {}, parts=3)
    first, second, third = sorted(tmp_path.iterdir())
    third.write_bytes(first.read_bytes())  # a first part again, which announces three
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf is not part 3"):
        open_model(first)
    third.unlink()
    third.symlink_to(second)
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf is not part 3"):
        open_model(first)


def test_a_model_cut_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    path = tmp_path / "cut.gguf"
    for end in np.linspace(0, len(whole) - 33, 100, dtype=int):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            open_model(path)
