"""A small random model on disk, and a way to call a command."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from llm_jax.checkpoint import save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer

TEXT = "the quick brown fox jumps over the lazy dog. été 日本\n"


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = CharacterTokenizer([TEXT])
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=64, positions="learned"
    )
    path = tmp_path_factory.mktemp("models") / "small"
    save_model(path, Model.init(config, seed=1), tokenizer)
    return path


@pytest.fixture
def call() -> Callable[..., Result]:
    """Calls a command with arguments; a bug in it raises."""

    def call(command: click.Command, *args: object, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(command, [str(arg) for arg in args], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
