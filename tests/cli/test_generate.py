"""`llm-generate` continues what it is given, says how it ended, and explains mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cli.generate import main
from llm_jax.checkpoint import load_model, save_model
from llm_jax.inference import SamplingParams, continue_prompts, generate
from tests.inference.test_special_tokens import TOKENIZER, after_bos

Call = Callable[..., Result]


def test_it_prints_what_generate_returns(call: Call, model_directory: Path) -> None:
    loaded = load_model(model_directory)
    expected = generate(loaded.model, loaded.tokenizer, "the dog", max_new_tokens=8, seed=3, top_k=5)
    options = ["--model", model_directory, "--max-new-tokens", 8, "--seed", 3, "--top-k", 5]
    assert call(main, *options, "the dog").stdout == expected + "\n"


def test_weights_of_eight_bits_are_the_engines(call: Call, model_directory: Path) -> None:
    loaded = load_model(model_directory)
    assert loaded.tokenizer is not None
    settings = SamplingParams(max_new_tokens=20, seed=3)
    made = continue_prompts(loaded.model, loaded.tokenizer, ["the dog"], settings, dtype="int8")
    text = "the dog" + "".join(piece.text for _, piece in made)
    options = ["--model", model_directory, "--max-new-tokens", 20, "--seed", 3]
    assert call(main, *options, "--dtype", "int8", "the dog").stdout == text + "\n"


def test_argument_file_and_standard_input_are_the_same_prompt(
    call: Call, model_directory: Path, tmp_path: Path
) -> None:
    options = ["--model", model_directory, "--max-new-tokens", 5, "--seed", 0]
    (tmp_path / "prompt.txt").write_text("été 日本\n", encoding="utf-8")
    by_argument = call(main, *options, "été 日本").stdout
    assert by_argument.startswith("été 日本")
    assert call(main, *options, "--file", tmp_path / "prompt.txt").stdout == by_argument
    assert call(main, *options, input="été 日本\n").stdout == by_argument
    assert call(main, *options, "--file", "-", input="été 日本\n").stdout == by_argument


def test_json_says_how_it_ended(call: Call, model_directory: Path) -> None:
    options = ["--model", model_directory, "--temperature", 0, "--json", "the fox"]
    whole = json.loads(call(main, *options, "--max-new-tokens", 12).stdout)
    assert whole.keys() == {"generated_text", "token_count", "finish_reason"}
    assert (whole["token_count"], whole["finish_reason"]) == (12, "length")
    assert len(whole["generated_text"]) == len("the fox") + 12

    last = whole["generated_text"][-1]
    stopped = json.loads(call(main, *options, "--max-new-tokens", 12, "--stop", last).stdout)
    assert stopped["finish_reason"] == "stop"
    assert last not in stopped["generated_text"].removeprefix("the fox")


def test_a_raw_prompt_has_the_bos_that_its_tokenizer_adds_unless_told_otherwise(call: Call, tmp_path: Path) -> None:
    """The model says z where there is a BOS, else a."""
    save_model(tmp_path / "model", after_bos(), TOKENIZER)
    options = ["--model", tmp_path / "model", "--max-new-tokens", 3, "--temperature", 0, "b"]
    assert call(main, *options).stdout == "bzzz\n"
    assert call(main, *options, "--add-special-tokens").stdout == "bzzz\n"
    assert call(main, *options, "--no-add-special-tokens").stdout == "baaa\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-new-tokens", 0, "the"], "max_new_tokens is 0; it must be at least 1"),
        (["--max-new-tokens", 64, "the"], "max_new_tokens is 64"),
        (["--temperature", -1, "the"], "temperature is -1"),
        (["--top-p", 0, "the"], "top_p is 0"),
        (["--dtype", "int3", "the"], "'int3' is not one of 'auto', 'float32', 'bfloat16', 'int8', 'int4'"),
        (["--top-k", "many", "the"], "'many' is not a valid integer"),
        (["THE"], "'T'"),
        ([""], "prompt is empty"),
    ],
)
def test_mistakes_are_explained(call: Call, model_directory: Path, arguments: list[object], message: str) -> None:
    result = call(main, "--model", model_directory, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_mistakes_about_files(call: Call, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    for arguments, message in [
        (["--model", tmp_path / "nothing", "the"], "nothing"),
        (["--model", model_directory, "--file", tmp_path / "none.txt"], "does not exist"),
        (["--model", model_directory, "--file", tmp_path / "latin.txt"], "not UTF-8"),
        (["--model", model_directory, "--file", tmp_path / "latin.txt", "the"], "not both"),
    ]:
        result = call(main, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_reader_that_goes_away_ends_it_quietly(model_directory: Path) -> None:
    program = (
        f"from cli.generate import main; main(['--model', {str(model_directory)!r}, 'the', '--max-new-tokens', '50'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
