"""Torch files are read without torch, bit for bit, and nothing in them is executed."""

import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_jax.checkpoint import read_torch_file
from llm_jax.errors import CheckpointError

BASE = torch.arange(70, dtype=torch.float32).reshape(10, 7)

UNUSUAL = {
    "transposed slice": BASE[2:5, 1:4].T,
    "expanded": BASE.expand(3, 10, 7),
    "offset into a shared storage": BASE[7:],
    "column": BASE[:, 3],
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(BASE[:2] / 3),
    "half": BASE.half(),
    "double": BASE.double() / 7,
    "bool": BASE > 20,
    "int8": BASE.to(torch.int8),
}


def test_every_memory_layout_and_dtype_is_read_as_by_torch(tmp_path: Path) -> None:
    torch.save(UNUSUAL | {"bfloat16": BASE.bfloat16() / 3}, tmp_path / "x.pt")
    read = read_torch_file(tmp_path / "x.pt")
    for name, tensor in UNUSUAL.items():
        expected = tensor.detach().numpy()
        assert read[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(read[name], expected, err_msg=name)
    assert read["bfloat16"].dtype.name == "bfloat16"
    np.testing.assert_array_equal(read["bfloat16"].astype(np.float32), (BASE.bfloat16() / 3).float().numpy())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module._orig_mod."])
@pytest.mark.parametrize("key", [None, "model_state_dict", "model_state"])
def test_nested_state_dicts_are_unwrapped_and_prefixes_stripped(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = {f"{prefix}block.module.weight": BASE}
    torch.save(state if key is None else {key: state, "epoch": 3, "lr": [0.1]}, tmp_path / "x.pt")
    assert list(read_torch_file(tmp_path / "x.pt")) == ["block.module.weight"]


def test_a_real_module_with_its_metadata_and_optimizer(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    torch.save({"model_state_dict": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    read = read_torch_file(tmp_path / "x.pt")
    np.testing.assert_array_equal(read["weight"], module.weight.detach().numpy())


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    torch.save({"module.a": BASE, "a": BASE}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="a occurs twice"):
        read_torch_file(tmp_path / "x.pt")


class _Runs:
    """A pickle that, when it is loaded the usual way, creates a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("nested", [False, True])
def test_code_is_refused_by_name_and_not_executed(tmp_path: Path, nested: bool) -> None:
    trap = tmp_path / "executed"
    content = {"weight": BASE, "evil": _Runs(trap)}
    torch.save({"model_state_dict": content} if nested else content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"asks to run (posix|nt)\.mkdir.*nothing was executed"):
        read_torch_file(tmp_path / "x.pt")
    assert not trap.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert trap.exists(), "the trap must be real"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([BASE], "holds a list"),
        ({}, "it is empty"),
        ({"epoch": 3}, "epoch are not tensors"),
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_other_content_than_a_state_dict_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=complaint):
        read_torch_file(tmp_path / "x.pt")


def test_the_error_about_the_format_before_torch_1_6_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"a": BASE}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="saved again with a later torch"):
        read_torch_file(tmp_path / "x.pt")


def test_damaged_files_raise_nothing_but_checkpoint_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(UNUSUAL, path)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except CheckpointError:
            refused += 1
    assert refused
    for _ in range(30):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(CheckpointError):
            read_torch_file(path)


@pytest.mark.parametrize("shape", [b"K\x03K\x06\x86", b"K\x04K\x05\x86", b"K\x03J\xff\xff\xff\xff\x86"])
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path, shape: bytes) -> None:
    torch.save({"a": torch.zeros(3, 5)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as good, zipfile.ZipFile(tmp_path / "y.pt", "w") as forged:
        for name in good.namelist():
            content = good.read(name)  # the shape (3, 5) is in the pickle as K3 K5 TUPLE2
            forged.writestr(name, content.replace(b"K\x03K\x05\x86", shape) if name.endswith(".pkl") else content)
    with pytest.raises(CheckpointError, match=r"beyond its storage|strides"):
        read_torch_file(tmp_path / "y.pt")


def test_reading_needs_no_torch() -> None:
    fixture = Path(__file__).parents[1] / "fixtures/torch_checkpoints/default/state_dict.pt"
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from llm_jax.checkpoint import load_model\n"
        f"print(load_model({str(fixture)!r}).model.config.hidden_size)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "32"
