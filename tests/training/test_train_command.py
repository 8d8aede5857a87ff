"""llm-train and the simple script as processes: what they print, and how they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.train import main

REPOSITORY = Path(__file__).parents[2]


def run(*arguments, cwd=None, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    command = [sys.executable, "-m", "cli.train", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd or REPOSITORY,
        env={**clean, "PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--task juggling", "'juggling' is not one of"),
        ("--task lm", "data.dataset_path is not set"),
        ("--task lm --config-path missing.yaml", "missing.yaml: there is no such configuration file"),
        ("--task lm --config-path broken.yaml", "broken.yaml, line 1: not YAML"),
        ("--task lm --config-path unknown.yaml", "unknown.yaml, line 2: section training has no field 'epoch'"),
        ("--task lm --set data.dataset_path=missing.txt", "missing.txt: there is no such file"),
        ("--task regression --lr -1", "--lr: training.lr is -1.0; it must be above 0"),
        ("--task regression --set nonsense", "write section.field=value"),
        ("--task regression --resume nowhere", "nowhere: no saved run to resume"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, monkeypatch, arguments, says):
    (tmp_path / "broken.yaml").write_text("model: [1", encoding="utf-8")
    (tmp_path / "unknown.yaml").write_text("training:\n  epoch: 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 2
    assert says in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    assert result.stdout == ""


def test_a_device_that_is_not_there(tmp_path):
    result = run("--task", "regression", "--device", "cuda", cwd=tmp_path)
    assert result.returncode == 2
    assert "There is no cuda device here" in result.stderr
    assert "Traceback" not in result.stderr


def test_regression_works_out_of_the_box(tmp_path):
    result = run("--task", "regression", "--epochs", 2, "--num-samples", 2000, "--batch-size", 32, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "best validation loss 0.0" in result.stdout
    assert (tmp_path / "checkpoints" / "loss.png").exists()
    assert result.stderr == ""


def test_the_environment_reaches_the_run(tmp_path):
    result = run("--task", "regression", "--epochs", 1, "--num-samples", 100, cwd=tmp_path, LLM_MODEL__HIDDEN_SIZE="24")
    assert "673 parameters" in result.stdout  # 2 · 24 + 24 · 25 + 25


def test_the_simple_script_trains_on_characters_and_resumes(tmp_path, corpus):
    script = REPOSITORY / "scripts" / "train_simple_decoder.py"
    arguments = ["--file-path", corpus, "--epochs", 2, "--save-dir", tmp_path / "simple", "--hidden-size", 16]
    command = [sys.executable, script, *map(str, arguments)]
    first = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert first.returncode == 0, first.stderr
    assert "A sample of" in first.stdout
    more = [*command, "--resume", "--epochs", "3"]
    second = subprocess.run(more, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert second.returncode == 0, second.stderr
    assert "Resuming" in second.stdout
    assert "epoch 3/3 done" in second.stdout
