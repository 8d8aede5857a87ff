"""`llm-convert` keeps what a model is, changes how it is stored, and destroys nothing unasked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from safetensors import safe_open

from cli.convert import main
from llm_jax.checkpoint import load_model

Call = Callable[..., Result]
TORCH_CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "torch_checkpoints" / "default" / "training_checkpoint.pt"


def test_a_model_directory_comes_out_as_it_went_in(call: Call, model_directory: Path, tmp_path: Path) -> None:
    result = call(main, model_directory, tmp_path / "copy")
    assert result.exit_code == 0, result.stderr
    before, after = load_model(model_directory), load_model(tmp_path / "copy")
    assert after.model.config == before.model.config
    assert after.model.params.keys() == before.model.params.keys()
    for name, array in before.model.params.items():
        np.testing.assert_array_equal(array, after.model.params[name])
    assert before.tokenizer is not None
    assert after.tokenizer is not None
    assert after.tokenizer.encode("the fox") == before.tokenizer.encode("the fox")


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")])
def test_dtype(call: Call, model_directory: Path, tmp_path: Path, dtype: str, stored: str) -> None:
    result = call(main, model_directory, tmp_path / dtype, "--dtype", dtype)
    assert result.exit_code == 0, result.stderr
    assert dtype in result.stdout
    with safe_open(tmp_path / dtype / "model.safetensors", "np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored}  # noqa: SIM118 - not a dict


def test_a_torch_checkpoint_becomes_a_model_directory(call: Call, tmp_path: Path) -> None:
    result = call(main, TORCH_CHECKPOINT, tmp_path / "model")
    assert result.exit_code == 0, result.stderr
    assert "tokenizer   none" in result.stdout
    loaded, original = load_model(tmp_path / "model"), load_model(TORCH_CHECKPOINT)
    assert loaded.model.config == original.model.config
    for name, array in original.model.params.items():
        np.testing.assert_array_equal(array, loaded.model.params[name])


def test_nothing_is_replaced_unasked(call: Call, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    refused = call(main, model_directory, tmp_path)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]

    call(main, model_directory, tmp_path / "model")
    again = call(main, model_directory, tmp_path / "model", "--force", "--dtype", "bfloat16")
    assert again.exit_code == 0, again.stderr
    assert {str(array.dtype) for array in load_model(tmp_path / "model").model.params.values()} == {"bfloat16"}


def test_mistakes_are_explained(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    missing = call(main, tmp_path / "none", tmp_path / "out")
    assert (missing.exit_code, "does not exist" in missing.stderr) == (2, True)
    empty = call(main, tmp_path / "empty", tmp_path / "out")
    assert empty.exit_code == 2
    assert str(tmp_path / "empty") in empty.stderr
    assert not (tmp_path / "out").exists()
