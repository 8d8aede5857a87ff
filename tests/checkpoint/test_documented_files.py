"""Torch files with the names of DecoderModel, written by another implementation, give the logits of that one."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.checkpoint import decoder_kwargs_to_config, load_model, read_torch_file
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.tokenizers import CharacterTokenizer
from tests.checkpoint.greedy import continue_greedily
from tests.compiled import forward

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures/torch_checkpoints").iterdir())
FILES = [folder / name for folder in FOLDERS for name in ("state_dict.pt", "training_checkpoint.pt")]
by_path = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")


@by_path
def test_logits_and_greedy_continuation(path: Path) -> None:
    model = load_model(path).model
    expected = torch.load(path.parent / "expected.pt", weights_only=True)
    tokens = jnp.asarray(expected["input_ids"].numpy(), jnp.int32)
    np.testing.assert_allclose(forward(model.config, model.params, tokens), expected["logits"].numpy(), atol=1e-4)
    greedy = expected["greedy"][0].tolist()
    prompt = 5
    assert continue_greedily(model, [greedy[:prompt]], len(greedy) - prompt) == [greedy[prompt:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a fixture that a test may spoil."""
    return Path(shutil.copytree(FOLDERS[0], tmp_path / "checkpoint"))


def rewrite(path: Path, change: Any) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_a_tokenizer_beside_the_file_is_loaded(folder: Path) -> None:
    tokenizer = CharacterTokenizer(["abc "])
    tokenizer.save_pretrained(folder)
    loaded = load_model(folder / "state_dict.pt")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("cab") == tokenizer.encode("cab")


def test_all_names_that_do_not_fit_are_in_one_error(folder: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        del state["final_norm.bias"]
        state["stranger"] = torch.ones(1)
        state["lm_head.weight"] = torch.ones(53, 31)

    rewrite(folder / "state_dict.pt", spoil)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder / "state_dict.pt")
    message = str(caught.value)
    assert "missing: final_norm.bias" in message
    assert "unexpected: stranger" in message
    assert "misshaped: lm_head.weight is [53, 31] where [53, 32] is expected" in message


def test_another_table_of_positions_is_refused(folder: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["embedding_layer.positional_encoding.pe"] = torch.zeros(1, 24, 32)

    rewrite(folder / "state_dict.pt", spoil)
    with pytest.raises(CheckpointError, match="not the sinusoidal table"):
        load_model(folder / "state_dict.pt")


def test_the_error_about_missing_arguments_says_what_to_write(tmp_path: Path) -> None:
    shutil.copy(FOLDERS[1] / "state_dict.pt", tmp_path)
    with pytest.raises(CheckpointError, match=r"Write a model\.json") as caught:
        load_model(tmp_path / "state_dict.pt")
    message = str(caught.value)
    start = message.index("{")
    inferred = json.loads(message[start : message.index("}") + 1])
    actual = json.loads((FOLDERS[1] / "model.json").read_text())
    assert all(actual.get(name, value) == value for name, value in inferred.items())
    # Following the advice gives the model.
    heads = {"num_heads": 4, "num_kv_heads": 2, "mlp_activation": "silu"}
    (tmp_path / "model.json").write_text(json.dumps(inferred | heads))
    assert load_model(tmp_path / "state_dict.pt").model.config == load_model(FILES[2]).model.config


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"hiden_size": 3}, "no argument 'hiden_size'"),
        ({"num_layers": "two"}, "does not describe a DecoderModel"),
        ({"use_rope": True, "use_alibi": True}, "exclude each other"),
        ({"norm_type": "BatchNorm1d"}, "no known norm"),
        ({"mlp_activation": "mish"}, "it must be one of gelu"),
        ({"attn_impl": "mla"}, "attn_impl is 'mla'"),
    ],
)
def test_inconsistent_arguments_are_refused(folder: Path, arguments: dict[str, Any], complaint: str) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | arguments))
    with pytest.raises(CheckpointError, match=complaint):
        load_model(folder / "state_dict.pt")


def test_the_documented_arguments_reach_the_configuration() -> None:
    config = decoder_kwargs_to_config(
        {
            "vocab_size": 9,
            "hidden_size": 8,
            "num_layers": 1,
            "num_heads": 2,
            "num_kv_heads": 1,
            "norm_first": False,
            "norm_impl": "rms_norm",
            "use_rope": True,
            "rope_theta": 500.0,
            "mlp_activation": "relu",
            "padding_idx": 3,
            "attn_dropout_p": 0.3,
            "window_size": 4,
            "use_moe": True,
            "num_experts": 4,
            "top_k": 2,
            "is_causal": False,
        }
    )
    assert config == ModelConfig(
        vocab_size=9,
        hidden_size=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        norm_first=False,
        norm="rms_norm",
        positions="rotary",
        rope_theta=500.0,
        activation="relu",
        padding_idx=3,
        attention_dropout=0.3,
        window_size=4,
        use_moe=True,
        num_experts=4,
        top_k=2,
        is_causal=False,
    )
    with pytest.raises(ConfigError, match="needs num_heads"):
        decoder_kwargs_to_config({"vocab_size": 9, "hidden_size": 8, "num_layers": 1})


def test_half_precision_files_load(folder: Path) -> None:
    rewrite(folder / "state_dict.pt", lambda state: state.update({k: v.bfloat16() for k, v in state.items()}))
    model = load_model(folder / "state_dict.pt").model
    assert {str(value.dtype) for value in model.params.values()} == {"bfloat16"}
    wide = load_model(folder / "state_dict.pt", dtype="float32").model
    original = read_torch_file(FOLDERS[0] / "state_dict.pt")
    np.testing.assert_allclose(wide.params["lm_head.weight"], original["lm_head.weight"], rtol=2**-8)
