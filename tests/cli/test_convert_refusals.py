"""What `llm-convert` refuses: it names what is wrong and where, runs nothing, and leaves nothing behind."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from cli.convert import main
from llm_jax.checkpoint import save_model
from llm_jax.checkpoint.recognise import SAFETENSORS_INDEX
from llm_jax.config import ModelConfig
from llm_jax.model import Model

Call = Callable[..., Result]
LLAMA = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=1,
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
    intermediate_size=20,
)


def spoil_family(source: Path) -> None:
    rewrite(source / "config.json", model_type="bert")


def spoil_shape(source: Path) -> None:
    rewrite(source / "config.json", num_hidden_layers=3)


def spoil_index(source: Path) -> None:
    index = json.loads((source / SAFETENSORS_INDEX).read_text())
    rewrite(source / SAFETENSORS_INDEX, weight_map=dict.fromkeys(index["weight_map"], "../../secret.safetensors"))


def spoil_shard(source: Path) -> None:
    second_shard(source).unlink()


def spoil_length(source: Path) -> None:
    second_shard(source).write_bytes(second_shard(source).read_bytes()[:-1])


def spoil_by_code(source: Path) -> None:
    for path in source.glob("*.safetensors*"):
        path.unlink()
    torch.save({"lm_head.weight": Trap(source / "executed")}, source / "pytorch_model.bin")


class Trap:
    """A pickle that makes a directory when it is loaded as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def second_shard(source: Path) -> Path:
    return next(source.glob("model-00002-of-*"))


def rewrite(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_family, r"config\.json has the model_type 'bert'; known families are"),
        (spoil_shape, r"missing: model\.layers\.1\.input_layernorm\.weight"),
        (spoil_index, r"safetensors\.index\.json names '\.\./\.\./secret\.safetensors', which lies outside"),
        (spoil_shard, r"model-00002-of-\d+\.safetensors does not exist"),
        (spoil_length, r"model-00002-of-\d+\.safetensors is damaged or cut short"),
        (spoil_by_code, r"pytorch_model\.bin asks to run posix\.mkdir"),
    ],
)
@pytest.mark.parametrize("destination", ["model", "model.gguf"])
def test_what_is_wrong_is_named_and_nothing_is_done(
    call: Call, tmp_path: Path, spoil: Callable[[Path], None], words: str, destination: str
) -> None:
    save_model(tmp_path / "source", Model.init(LLAMA), max_shard_bytes=2500)
    spoil(tmp_path / "source")
    before = sorted(tmp_path.rglob("*"))
    refused = call(main, tmp_path / "source", tmp_path / destination)
    assert refused.exit_code == 2
    assert re.search(words, refused.stderr)
    assert sorted(tmp_path.rglob("*")) == before
