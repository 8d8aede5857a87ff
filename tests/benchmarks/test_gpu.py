"""The GPU benchmark, on whatever device there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--model-shape", "tiny", "--batch", "4", "--context", "16", "--steps", "4", "--train-batch", "2",
    "--train-length", "16", "--rounds", "1", "--peak-bandwidth", "0.05", "--peak-flops", "1",
]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *SMALL, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT
    )  # fmt: skip


def test_figures_follow_from_what_was_measured() -> None:
    done = run("--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    D, F, V, L = 64, 128, 96, 2
    products = L * (4 * D * D + 3 * D * F) + V * D
    read = 2 * (products + (2 * L + 1) * D) + 2 * 2 * L * D * (16 + 2)  # weights with the norms, keys and values
    assert figures["bandwidth_share"] == pytest.approx(figures["decode"]["1"] * read / 0.05e12)
    assert figures["batch_gain"] == pytest.approx(figures["decode"]["4"] / figures["decode"]["1"])
    per_token = 6 * (products + (2 * L + 1) * D) + 6 * L * D * 16
    assert figures["mfu"] == pytest.approx(figures["training"] * per_token / 1e12)
    assert figures["training_batch"] == 2
    assert figures["machine"]["jax"]


def test_each_run_adds_a_line(tmp_path: Path) -> None:
    done = run("--results", str(tmp_path / "RESULTS.md"))
    assert done.returncode == 0, done.stderr
    *_, line, end = (tmp_path / "RESULTS.md").read_text().splitlines()
    assert end == "<!-- end of gpu -->"
    assert "tiny" in line
    assert "tokens/s at 4" in line
