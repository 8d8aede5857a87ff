"""The GPU benchmark, on any device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--model-shape", "tiny", "--batch", "4", "--context", "16", "--steps", "4", "--rounds", "1"),
    *("--train-batch", "2", "--train-length", "16", "--peak-bandwidth", "0.05", "--peak-flops", "1"),
]


def test_figures_follow_from_the_measurements_and_are_recorded(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "benchmarks.gpu", *SMALL, "--json", "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
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

    *_, line, _ = results.read_text().splitlines()
    shown = [cell.strip() for cell in line.strip("|").split("|")]
    assert shown[0] == figures["machine"]["date"]
    assert f"{figures['decode']['4']:.0f} tokens/s at 4" in shown
    assert f"{figures['mfu']:.0%} of 1 TFLOP/s" in shown
