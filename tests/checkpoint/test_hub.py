"""from_pretrained and save_pretrained: a path is a path, a name goes through huggingface_hub and its cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llm_jax
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer(["abcdef "])
CONFIG = ModelConfig(vocab_size=TOKENIZER.vocab_size, hidden_size=8, num_layers=1, num_heads=2, max_seq_len=16)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    model = Model.init(CONFIG)
    llm_jax.save_pretrained(tmp_path / "model", model, TOKENIZER)
    loaded = llm_jax.from_pretrained(tmp_path / "model")
    assert loaded.model.config == CONFIG
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, loaded.model.params[name])
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("fade") == TOKENIZER.encode("fade")
    half = llm_jax.from_pretrained(str(tmp_path / "model"), dtype="bfloat16")
    assert {str(array.dtype) for array in half.model.params.values()} == {"bfloat16"}


@pytest.mark.parametrize("path", ["./none", "/none/at/all", "a/b/c", "~/none"])
def test_a_path_that_does_not_exist_is_not_looked_up(path: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        llm_jax.from_pretrained(path)


def offline(code: str, cache: Path) -> str:
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_name_comes_from_the_cache_when_offline(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    llm_jax.save_pretrained(repository / "snapshots" / COMMIT, Model.init(CONFIG), TOKENIZER)
    code = f"""
from cli.convert import main
from llm_jax import from_pretrained
from llm_jax.errors import CheckpointError
print(from_pretrained("someone/small").model.config.hidden_size)
try:
    from_pretrained("someone/else")
except CheckpointError as error:
    print(error)
main(["someone/small", {str(tmp_path / "copy")!r}], standalone_mode=False)
"""
    first, second = offline(code, tmp_path).splitlines()[:2]
    assert first == "8"
    assert llm_jax.from_pretrained(tmp_path / "copy").model.config == CONFIG
    assert second.startswith("someone/else is no path that exists, and cannot be had from the Hub")
    assert "HF_HUB_OFFLINE" in second
