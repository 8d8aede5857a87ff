"""The benchmark script under its documented path, with its documented arguments."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.benchmark_inference import Generation, summarise
from benchmarks.limits import bytes_per_step
from llm_jax.config import ModelConfig
from llm_jax.model import param_shapes

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
CHECKPOINT = ROOT / "tests/fixtures/torch_checkpoints/default/state_dict.pt"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/benchmark_inference.py"), "--model-path", str(CHECKPOINT)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=ENVIRONMENT)


def test_it_prints_each_run_and_then_the_averages() -> None:
    done = benchmark("--prompt", "Hi", "--max_new_tokens", "4", "--runs", "2", "--compile", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    rates = [float(rate) for rate in re.findall(r"^run \d: 4 tokens .* ([\d.]+) tokens/s$", done.stdout, re.M)]
    assert len(rates) == 2
    *_, latency, rate = done.stdout.strip().splitlines()
    assert re.fullmatch(r"Average latency: [\d.]+ s", latency)
    average = float(rate.removeprefix("Average tokens per second: "))
    assert average == pytest.approx(sum(rates) / 2, abs=0.2)


def test_json_has_every_figure_and_is_alone_on_stdout() -> None:
    done = benchmark("--json", "--max-new-tokens", "3", "--runs", "2", "--no-compile")
    report = json.loads(done.stdout)
    assert not report["compiled"]
    assert [run["tokens"] for run in report["runs"]] == [3, 3]
    assert all(0 < run["first_token"] <= run["latency"] for run in report["runs"])
    assert report["tokens_per_second"].keys() == {"mean", "p50", "p95"}
    assert report["bandwidth"] > 0
    assert 0 < report["bandwidth_share"] < 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--prompt", ""), "The prompt is empty"),
        (("--max-new-tokens", "500"), "max_seq_len|context"),
        (("--device", "cuda"), "no cuda device"),
        (("--runs", "0"), "0 is not in the range"),
    ],
)
def test_mistakes_end_in_one_message(arguments: tuple[str, ...], complaint: str) -> None:
    done = benchmark(*arguments)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr)
    assert "Traceback" not in done.stderr


def test_summary() -> None:
    runs = [Generation(latency=0.5 + 0.1 * i, first_token=0.1, tokens=5) for i in range(3)]
    report = summarise(runs, weights=1000, bandwidth=1e5)
    assert report["latency"] == pytest.approx({"mean": 0.6, "p50": 0.6, "p95": 0.7})
    assert report["tokens_per_second"]["p50"] == pytest.approx(5 / 0.6)
    # A step takes (0.6 - 0.1) / 4 = 0.125 s on average and reads 1000 bytes: 8 kB/s of 100.
    assert report["bandwidth_share"] == pytest.approx(0.08)


def test_a_step_reads_all_weights_except_the_tables_and_inactive_experts() -> None:
    plain = ModelConfig(vocab_size=10, hidden_size=4, num_layers=1, num_heads=2, max_seq_len=8, positions="learned")
    count = parameters(plain)
    assert bytes_per_step(plain, "float32") == 4 * (count - 10 * 4 - 8 * 4)
    experts = ModelConfig(
        vocab_size=10,
        hidden_size=4,
        num_layers=1,
        num_heads=2,
        max_seq_len=8,
        tie_embeddings=True,
        use_moe=True,
        num_experts=4,
        top_k=1,
        mlp_bias=False,
    )
    count = parameters(experts)
    assert bytes_per_step(experts, "bfloat16") == 2 * (count - 3 * 2 * 4 * 16)


def parameters(config: ModelConfig) -> int:
    return sum(value.size for value in param_shapes(config).values())
