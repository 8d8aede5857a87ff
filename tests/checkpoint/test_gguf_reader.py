"""The reader of GGUF files beside the gguf library's own, and damaged files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_jax.checkpoint.formats.gguf.reader import read_content
from llm_jax.checkpoint.formats.gguf.types import TYPES
from llm_jax.errors import CheckpointError

gguf = pytest.importorskip("gguf")


def write(path: Path) -> Path:
    """A file with every kind of metadata and several types of tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -5, "uint32": 2**31, "int32": -7}.items():
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    writer.add_uint64("x.uint64", 2**63)
    writer.add_int64("x.int64", -(2**62))
    writer.add_float32("x.float32", 0.1)
    writer.add_float64("x.float64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "ß 日本 🙂")
    writer.add_array("x.strings", ["a", "", "▁日本"])
    writer.add_array("x.numbers", [1.5, -2.5])
    writer.add_array("x.bools", [True, False, True])
    rng = np.random.default_rng(0)
    for name, shape in {"a": (3, 64), "b": (5,), "c": (2, 3, 32)}.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    quantised = gguf.quantize(rng.normal(size=(3, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q5_1)
    writer.add_tensor("d", quantised, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_content_equals_the_library_s(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    content, expected = read_content(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in expected.fields.items() if not name.startswith("GGUF.")}
    assert {name: plain(value) for name, value in content.metadata.items()} == fields
    assert list(content.tensors) == [tensor.name for tensor in expected.tensors]
    for tensor in expected.tensors:
        ours = content.tensors[tensor.name]
        assert ours.type.name == tensor.tensor_type.name
        assert ours.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert ours.data.tobytes() == tensor.data.tobytes()


def test_types_are_the_library_s() -> None:
    known = {type_.value: (type_.name, *sizes) for type_, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert known == {number: tuple(type_) for number, type_ in TYPES.items()}


def test_a_file_that_ends_too_early_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    last = whole[-32:].rstrip(b"\0")  # padding behind the last tensor may be missing
    for end in range(len(whole) - 32 + len(last)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            read_content(path)
