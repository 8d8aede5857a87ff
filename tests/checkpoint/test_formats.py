"""Weights in safetensors and torch files: sharding, and damaged files."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

from llm_jax.checkpoint.formats import open_weights, write_safetensors
from llm_jax.checkpoint.recognise import SAFETENSORS, SAFETENSORS_INDEX, TORCH_INDEX, model_directory
from llm_jax.errors import CheckpointError

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous: the writer has to copy it
    "c": np.ones(5, ml_dtypes.bfloat16),
    "d": np.float32(3) * np.ones(()),
}


@pytest.mark.parametrize("limit", [10, 50, 10**6])
def test_written_tensors_are_read_back_bit_for_bit(tmp_path: Path, limit: int) -> None:
    write_safetensors(tmp_path, TENSORS, max_shard_bytes=limit)
    assert (tmp_path / SAFETENSORS_INDEX).exists() == (limit < 100)
    read = open_weights(model_directory(tmp_path))
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_the_index_names_every_shard_and_the_size(tmp_path: Path) -> None:
    write_safetensors(tmp_path, TENSORS, max_shard_bytes=50)
    index = json.loads((tmp_path / SAFETENSORS_INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for name, shard in index["weight_map"].items():
        with safe_open(tmp_path / shard, framework="numpy") as file:
            assert name in file.keys()  # noqa: SIM118 (not a mapping)


def test_shards_of_torch_files_are_read(tmp_path: Path) -> None:
    parts = {
        "first.bin": {"a": torch.arange(6.0).reshape(2, 3)},
        "second.bin": {"b": torch.ones(2), "c": torch.ones(1)},
    }
    for file, part in parts.items():
        torch.save(part, tmp_path / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (tmp_path / TORCH_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    read = open_weights(model_directory(tmp_path))
    assert {name: array.tolist() for name, array in read.items()} == {
        name: tensor.tolist() for part in parts.values() for name, tensor in part.items()
    }


@pytest.mark.parametrize("index", [SAFETENSORS_INDEX, TORCH_INDEX])
@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "..\\x"])
def test_an_index_cannot_leave_its_directory(tmp_path: Path, shard: str, index: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_safetensors(tmp_path, {"a": TENSORS["a"]})
    (tmp_path / SAFETENSORS).rename(tmp_path / "secret.safetensors")
    (model / index).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=rf"{index} names .* outside its directory"):
        open_weights(model_directory(model))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path, TENSORS, max_shard_bytes=50)
    gone = next(tmp_path.glob("model-*-of-*.safetensors"))
    gone.unlink()
    with pytest.raises(CheckpointError, match=gone.name):
        open_weights(model_directory(tmp_path))


def test_an_index_with_a_tensor_that_no_shard_has_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path, TENSORS, max_shard_bytes=50)
    index = json.loads((tmp_path / SAFETENSORS_INDEX).read_text())
    index["weight_map"]["z"] = index["weight_map"]["a"]
    (tmp_path / SAFETENSORS_INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not hold z"):
        open_weights(model_directory(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / SAFETENSORS_INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="not an index"):
        open_weights(model_directory(tmp_path))


@pytest.mark.parametrize("length", [0, 5, 40, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: float) -> None:
    write_safetensors(tmp_path, TENSORS)
    whole = (tmp_path / SAFETENSORS).read_bytes()
    cut = int(len(whole) * length) if isinstance(length, float) else length
    (tmp_path / SAFETENSORS).write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
        open_weights(model_directory(tmp_path))


def test_the_error_about_a_directory_without_weights_names_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        open_weights(model_directory(tmp_path))
