"""Every task, killed by SIGKILL at random moments again and again, ends as if nothing had happened, bit for bit.

It takes some minutes for each task: `make test-training` runs it, with LLM_JAX_LONG_TESTS set. The suite has the same
with two kills of a language model (test_resume.py).
"""

import json
import os
import random
import signal
import string
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.checkpoint import TrainCheckpointer, save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer
from llm_jax.training.metrics import read_metrics
from llm_jax.training.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
KILLS = 20
pytestmark = [
    pytest.mark.skipif(not os.environ.get("LLM_JAX_LONG_TESTS"), reason="make test-training runs it: it is long"),
    pytest.mark.timeout(3600),
]


@pytest.fixture
def settings(tmp_path):
    """Settings of each task: dropout, accumulation, padding, a save after every step, more steps than kills."""
    words = random.Random(0)
    orders = [f"{words.choice('abcdef')}{words.choice('uvwxyz')}" for _ in range(60)]
    lines = {
        "corpus.txt": "\n\n".join(f"Say {order} and {order[::-1]}." for order in orders * 3),
        "talks.jsonl": "\n".join(
            json.dumps({"messages": [{"role": "user", "content": order}, {"role": "assistant", "content": order * 3}]})
            for order in orders
        ),
        "pairs.jsonl": "\n".join(
            json.dumps({"prompt": order, "chosen": order * 2, "rejected": order[::-1]}) for order in orders
        ),
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    base = tmp_path / "base"
    config = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=128, positions="rotary")
    tokenizer = CharacterTokenizer([string.printable])
    save_model(base, Model.init(config, seed=5), tokenizer)
    start = [f"model.init_from={base}", "data.max_seq_len=64"]
    data = {"lm": "corpus.txt", "sft": "talks.jsonl", "dpo": "pairs.jsonl", "distill": "corpus.txt"}

    def of(task: str, directory: str) -> list[str]:
        common = [
            *("training.batch_size=4", "optimization.gradient_accumulation_steps=2", "training.epochs=6"),
            *("checkpoint.save_interval_steps=1", "checkpoint.keep_last_n=2", "logging.log_interval=1"),
            *("model.dropout=0.1", "optimization.num_workers=1", f"checkpoint.checkpoint_dir={tmp_path / directory}"),
            *("checkpoint.resume_from_checkpoint=auto", "training.lr=0.003"),
        ]
        if task == "regression":
            return [*common, "training.num_samples=64", "model.hidden_size=16"]
        more = [f"distillation.teacher={base}"] if task == "distill" else []
        return [*common, *start, *more, f"data.dataset_path={tmp_path / data[task]}"]

    return of


def start(task: str, settings: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "cli.train", "--task", task, "--device", "cpu"]
    for setting in settings:
        command += ["--set", setting]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environ, **options)


def saved(directory: Path) -> tuple[object, ...]:
    """Digests of the last state, the plain numbers beside it, the models' bytes and what was measured."""
    step = TrainCheckpointer(directory / "state").steps()[-1]
    manifest = json.loads((directory / "state" / str(step) / "manifest.json").read_text())
    models = {
        path.name: path.read_bytes() for name in ("best", "last") for path in (directory / name).glob("*.safetensors")
    }
    measured = [
        {name: value for name, value in record.items() if name not in ("per_second", "peak_memory", "mfu")}
        for record in read_metrics(directory / "metrics.jsonl")
        if record["event"] != "run"
    ]
    return step, manifest["arrays"], manifest["metadata"]["progress"], models, measured


@pytest.mark.parametrize("task", TASKS)
def test_killed_at_random_moments(task, settings, tmp_path):
    out, _ = start(task, settings(task, "through")).communicate()
    assert "Done after" in out, out
    moments, last = random.Random(task), 0
    for _ in range(KILLS):
        process = start(task, settings(task, "killed"))
        lines = []
        for line in process.stdout:  # the first new step, so that every run gets further
            lines.append(line)
            if "  step " in line and int(line.split("  step ")[1].split()[0]) > last:
                break
        try:
            process.wait(timeout=moments.uniform(0.0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), "".join(lines)
        last = max([0, *TrainCheckpointer(tmp_path / "killed/state").steps()])
    out, _ = start(task, settings(task, "killed")).communicate()
    assert "Done after" in out, out
    assert saved(tmp_path / "killed") == saved(tmp_path / "through")
    assert not list((tmp_path / "killed").glob(".*.*")), "leftovers of killed runs are swept"
