"""`llm-eval` reports what `evaluate_text` computes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cli.evaluate import main
from llm_jax.checkpoint import load_model, save_model
from llm_jax.evaluation import evaluate_text
from tests.cli.conftest import TEXT
from tests.inference.test_special_tokens import TOKENIZER, after_bos

Call = Callable[..., Result]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    return path


def test_json(call: Call, model_directory: Path, text_file: Path) -> None:
    loaded = load_model(model_directory)
    assert loaded.tokenizer is not None
    score = evaluate_text(loaded.model, loaded.tokenizer, TEXT * 3, window=32)
    result = json.loads(call(main, "--model", model_directory, text_file, "--window", 32, "--json").stdout)
    assert (result["tokens"], result["bytes"]) == (3 * len(TEXT) - 1, len((TEXT * 3).encode()) - 1)
    for name in ("loss", "perplexity", "bits_per_token", "bits_per_byte", "accuracy"):
        assert result[name] == pytest.approx(getattr(score, name))


def test_table_and_standard_input(call: Call, model_directory: Path, text_file: Path) -> None:
    table = call(main, "--model", model_directory, text_file).stdout
    rows = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert float(rows["perplexity"]) > 1
    assert rows["text"] == str(text_file)
    piped = call(main, "--model", model_directory, "-", input=text_file.read_bytes()).stdout
    assert piped.replace("  -\n", f"  {text_file}\n") == table


def test_a_text_has_the_bos_that_its_tokenizer_adds_unless_told_otherwise(call: Call, tmp_path: Path) -> None:
    """With a BOS before it, the first token is predicted too; and this model sees whether there is one."""
    model, text = after_bos(), "the quick brown fox"
    save_model(tmp_path / "model", model, TOKENIZER)
    (tmp_path / "text.txt").write_text(text)
    for option, adds in (("--add-special-tokens", True), ("--no-add-special-tokens", False)):
        score = evaluate_text(model, TOKENIZER, text, add_special_tokens=adds)
        result = json.loads(call(main, "--model", tmp_path / "model", tmp_path / "text.txt", "--json", option).stdout)
        assert result["tokens"] == len(TOKENIZER.encode(text)) - (not adds)
        assert result["loss"] == pytest.approx(score.loss)


def test_mistakes_are_explained(call: Call, model_directory: Path, text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "capitals.txt").write_text("ABC")
    for arguments, message in [
        ([tmp_path / "none.txt"], "does not exist"),
        ([tmp_path / "empty.txt"], "at least 2"),
        ([tmp_path / "capitals.txt"], "'A'"),
        ([text_file, "--window", 65], "window is 65; it must be 1 to 64"),
    ]:
        result = call(main, "--model", model_directory, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
