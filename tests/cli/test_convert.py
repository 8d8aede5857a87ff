"""`llm-convert` keeps what a model is, changes how it is stored, and destroys nothing unasked."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from click.testing import Result
from safetensors import safe_open

from cli.convert import main
from llm_jax.checkpoint import load_model, save_model
from llm_jax.checkpoint.formats.torch import strip_wrapper_prefixes
from llm_jax.config import ModelConfig
from llm_jax.model import Model, param_shapes

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


def test_the_sampling_settings_of_a_models_maker_are_kept(call: Call, model_directory: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model_directory, source)
    sampling = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    others = {"eos_token_id": [1, 2], "do_sample": True, "_from_model_config": False}
    (source / "generation_config.json").write_text(json.dumps({**sampling, **others}), encoding="utf-8")
    assert call(main, source, tmp_path / "copy").exit_code == 0
    written = json.loads((tmp_path / "copy" / "generation_config.json").read_text(encoding="utf-8"))
    assert sampling.items() <= written.items()
    assert written["eos_token_id"] == [1, 2]
    assert not sampling.keys() & json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8")).keys()


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
    assert re.search(r"tokenizer\s+none", result.stdout)
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

    (tmp_path / "notes.gguf").write_text("mine")
    forced = call(main, model_directory, tmp_path / "notes.gguf", "--force")
    assert (forced.exit_code, "is not a GGUF file" in forced.stderr) == (2, True)
    forced = call(main, model_directory, tmp_path, "--force")
    assert (forced.exit_code, "is not a model directory" in forced.stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.gguf", "precious.txt"]

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


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_torch_file_that_torch_itself_reads(call: Call, tmp_path: Path, dtype: str | None) -> None:
    options = [] if dtype is None else ["--dtype", dtype]
    result = call(main, TORCH_CHECKPOINT, tmp_path / "out", "--layout", "torch", *options)
    assert result.exit_code == 0, result.stderr
    before = strip_wrapper_prefixes(torch.load(TORCH_CHECKPOINT, weights_only=True)["model_state_dict"])
    after = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        # The sinusoidal table is no parameter: it is computed anew, and differs in its last bit.
        within = 1e-6 if name.endswith(".pe") else 0.0
        assert torch.allclose(tensor.to(after[name].dtype), after[name], atol=within, rtol=0.0), name
        assert after[name].dtype == (torch.float32 if dtype is None else torch.bfloat16)
    assert load_model(tmp_path / "out").model.config == load_model(TORCH_CHECKPOINT).model.config


def test_documented_names_for_a_model_of_another_family(call: Call, llama: Path, tmp_path: Path) -> None:
    result = call(main, llama, tmp_path / "ours", "--layout", "documented")
    assert result.exit_code == 0, result.stderr
    with safe_open(tmp_path / "ours" / "model.safetensors", "np") as file:
        assert "transformer_blocks.7.self_attn.qkv_proj.weight" in file.keys()  # noqa: SIM118 - not a dict
    before, after = load_model(llama).model, load_model(tmp_path / "ours").model
    for name, array in before.params.items():
        np.testing.assert_array_equal(array, after.params[name])


LLAMA = ModelConfig(
    vocab_size=2000,
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    max_seq_len=64,
    positions="rotary",
    norm="rms_norm",
    use_glu=True,
    activation="silu",
    qkv_bias=False,
    mlp_bias=False,
    lm_head_bias=False,
    embedding_scale=1.0,
    intermediate_size=2048,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 140 MB in several files."""
    path = tmp_path_factory.mktemp("llama") / "model"
    save_model(path, Model.init(LLAMA), max_shard_bytes=50_000_000)
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


def test_to_gguf_and_back(call: Call, llama: Path, tmp_path: Path) -> None:
    there = call(main, llama, tmp_path / "model.gguf")
    assert there.exit_code == 0, there.stderr
    assert re.search(r"dtype\s+float32 -> float32", there.stdout)
    assert re.search(r"time\s+\d+\.\d s", there.stdout)
    back = call(main, tmp_path / "model.gguf", tmp_path / "back", "--shard-size", 0.05)
    assert back.exit_code == 0, back.stderr
    files = sorted(path.name for path in llama.glob("*.safetensors*"))
    assert sorted(path.name for path in (tmp_path / "back").glob("*.safetensors*")) == files
    for name in files:
        assert (tmp_path / "back" / name).read_bytes() == (llama / name).read_bytes()


def test_eight_bits_are_for_gguf_alone(call: Call, llama: Path, tmp_path: Path) -> None:
    refused = call(main, llama, tmp_path / "model", "--dtype", "q8_0")
    assert (refused.exit_code, "end in .gguf" in refused.stderr) == (2, True)
    assert call(main, llama, tmp_path / "model.gguf", "--dtype", "q8_0").exit_code == 0
    # 34 bytes for 32 values, against 128.
    assert (tmp_path / "model.gguf").stat().st_size < 0.28 * sum(f.stat().st_size for f in llama.iterdir())


def start(*arguments: object) -> subprocess.Popen[str]:
    code = "import sys; from cli.convert import main; main(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("destination", ["model", "model.gguf"])
def test_two_gigabytes_take_little_memory(tmp_path: Path, destination: str) -> None:
    """Beyond the page cache (mapped files): what it takes to start, and a few blocks of one tensor."""
    save_empty(tmp_path / "source", replace(LLAMA, vocab_size=128_000, hidden_size=2048, num_layers=22))
    assert (tmp_path / "source/model.safetensors").stat().st_size > 2e9
    peak = 0
    with start(tmp_path / "source", tmp_path / destination) as process:
        while process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
            with suppress(psutil.NoSuchProcess):
                memory = psutil.Process(process.pid).memory_info()
                peak = max(peak, memory.rss - memory.shared)
        assert process.stdout is not None
        assert re.search(r"time\s+\d+\.\d s", process.stdout.read())
    assert process.returncode == 0
    assert peak < 0.6e9


def save_empty(directory: Path, config: ModelConfig) -> None:
    """A model of bfloat16 zeros in a sparse file."""
    directory.mkdir()
    header, end = {}, 0
    for name, spec in param_shapes(config, "bfloat16").items():
        start, end = end, end + spec.size * 2
        header[name] = {"dtype": "BF16", "shape": spec.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(json.dumps({"model_type": "llm_decoder", **config.to_dict()}))


@pytest.mark.parametrize("name", ["model", "model.gguf"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replacing"])
def test_killed_halfway_it_leaves_what_was_there(
    call: Call, llama: Path, tmp_path: Path, name: str, existing: bool
) -> None:
    target = tmp_path / name
    if existing:
        call(main, llama, target, "--dtype", "float16")
    with start(llama, target, "--force") as process:
        while process.poll() is None and not any(file.is_file() for file in tmp_path.glob(f".{name}.*/**/*")):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert target.exists() == existing
    if existing:
        assert {str(array.dtype) for array in load_model(target).model.params.values()} <= {"float16", "float32"}


def test_a_failure_leaves_nothing(call: Call, model_directory: Path, tmp_path: Path) -> None:
    refused = call(main, model_directory, tmp_path / "model.gguf")  # layer norms without GPT-2's biases and heads
    assert refused.exit_code == 2
    assert "llama.cpp has no architecture" in refused.stderr
    assert list(tmp_path.iterdir()) == []
