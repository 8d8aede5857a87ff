"""A run that is killed, stopped or continued ends as one that ran through: bit for bit."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.checkpoint import TrainCheckpointer, load_model
from llm_jax.data import NoisyLine
from llm_jax.training import train
from llm_jax.training.metrics import read_metrics
from llm_jax.training.tasks import RegressionTask

REPOSITORY = Path(__file__).parents[2]
RESUME = "checkpoint.resume_from_checkpoint=auto"
# Everything that has a state: dropout keys, data order, plateau and patience. A save after every step, so that whenever
# the process is killed one is being written.
STATEFUL = [
    *("model.dropout=0.2", "training.scheduler_type=plateau", "training.plateau_patience=0", "training.lr=0.03"),
    *("training.early_stopping_patience=50", "checkpoint.save_interval_steps=1", "checkpoint.keep_last_n=2"),
    "optimization.gradient_accumulation_steps=2",
]


def train_in_a_process(flags, *, task="lm"):
    command = [sys.executable, "-u", "-m", "cli.train", "--task", task, "--device", "cpu"]
    for flag in flags:
        command += ["--set", flag]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(process, step):
    """Read what the process prints until it reports `step`. Returns the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if f"  step {step}  " in line:
            return lines
    raise AssertionError("the run ended before it was reached:\n" + "".join(lines))


def everything_saved(directory):
    """The bytes of the final weights, of the optimiser and of all that was measured."""
    checkpointer = TrainCheckpointer(Path(directory) / "state")
    metadata = checkpointer.metadata(checkpointer.steps()[-1])
    del metadata["identity"]["config"]  # names the directory
    arrays = json.loads((checkpointer.path(checkpointer.steps()[-1]) / "manifest.json").read_text())["arrays"]
    weights = {name: (Path(directory) / name / "model.safetensors").read_bytes() for name in ("best", "last")}
    timeless = [
        {name: value for name, value in record.items() if name not in ("per_second", "mfu", "peak_memory")}
        for record in read_metrics(Path(directory) / "metrics.jsonl")
        if record["event"] != "run"
    ]
    return weights, metadata, arrays, timeless


def test_killed_at_random_steps_and_resumed(config, flags):
    """SIGKILL, twice, at steps drawn from a seed; the process has no chance to tidy up."""
    through = train("lm", config(*STATEFUL, directory="through"))
    killed_at = sorted(random.Random(1).sample(range(2, through.total_steps - 1), 2))
    for step in killed_at:
        process = train_in_a_process(flags(*STATEFUL, RESUME, directory="killed"))
        try:
            wait_for_step(process, step)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    resumed = train("lm", config(*STATEFUL, RESUME, directory="killed"))
    assert resumed.progress == through.progress
    assert everything_saved(resumed.run.path) == everything_saved(through.run.path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_so(config, flags, number):
    settings = ["training.epochs=2000", "optimization.gradient_accumulation_steps=2"]
    process = train_in_a_process(flags(*settings))
    wait_for_step(process, 3)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"Stopped by {number.name} after step" in rest
    assert "--resume" in rest
    assert "Traceback" not in rest
    stopped = int(rest.split("after step ")[1].split()[0])
    run = Path(config(*settings).checkpoint.checkpoint_dir)
    assert TrainCheckpointer(run / "state").steps()[-1] == stopped >= 3
    assert load_model(run / "last").model.config.hidden_size == 16


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """Examples of which the first one that is read brings a SIGTERM."""

    source: NoisyLine
    read: list[int] = dataclasses.field(default_factory=list)

    def __len__(self):
        return len(self.source)

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __getitem__(self, index):
        if not self.read:  # a second one would end the process
            signal.raise_signal(signal.SIGTERM)
        self.read.append(index)
        return self.source[index]


def test_a_signal_while_validating_saves_at_once_and_the_validation_is_made_up_for(config):
    """However long it takes: the time from SIGTERM to SIGKILL is short."""
    settings = ["training.num_samples=60", "training.batch_size=6", "training.epochs=2"]
    through = train("regression", config(*settings, directory="through"))

    def interrupted(*arguments):
        task = RegressionTask.build(*arguments)
        return dataclasses.replace(task, validation=Interrupted(task.validation))

    first = train(interrupted, config(*settings, directory="parts"))
    assert first.signum == signal.SIGTERM
    assert first.progress.step == first.total_steps // 2
    assert first.progress.last_loss is None
    second = train("regression", config(*settings, RESUME, directory="parts"))
    assert everything_saved(second.run.path) == everything_saved(through.run.path)


def test_stopping_early_then_going_on_equals_going_through(config):
    """More epochs are added with a schedule that does not depend on them; a run directory of another name."""
    constant = ["training.scheduler_type=step", "training.step_epochs=100", "training.warmup_epochs=0"]
    through = train("lm", config(*constant, "training.epochs=4", directory="through"))
    half = train("lm", config(*constant, "training.epochs=2", directory="half"))
    more = [*constant, "training.epochs=4", f"checkpoint.resume_from_checkpoint={half.run.path}"]
    whole = train("lm", config(*more, directory="whole"))
    assert everything_saved(whole.run.path) == everything_saved(through.run.path)
    steps = [record["step"] for record in read_metrics(whole.run.metrics) if record["event"] == "step"]
    assert steps == list(range(1, through.total_steps + 1))


def test_float16_resumes_with_its_loss_scale(config):
    settings = ["optimization.use_amp=true", "optimization.amp_dtype=float16", "training.num_samples=200"]
    constant = ["training.scheduler_type=step", "training.step_epochs=100", "training.warmup_epochs=0"]
    through = train("regression", config(*settings, *constant, "training.epochs=2", directory="through"))
    train("regression", config(*settings, *constant, "training.epochs=1", directory="parts"))
    parts = train("regression", config(*settings, *constant, "training.epochs=2", RESUME, directory="parts"))
    assert everything_saved(parts.run.path) == everything_saved(through.run.path)


def test_resuming_a_finished_run_changes_nothing(config):
    first = train("lm", config("training.epochs=1"))
    before = everything_saved(first.run.path)
    again = train("lm", config("training.epochs=1", RESUME))
    assert again.progress == first.progress
    assert everything_saved(first.run.path) == before


def test_a_fresh_run_replaces_the_old_one(config, capsys):
    train("lm", config("training.epochs=2"))
    result = train("lm", config("training.epochs=1"))
    assert "Replacing the earlier run" in capsys.readouterr().out
    assert TrainCheckpointer(result.run.state).steps()[-1] == result.total_steps
    assert json.loads(result.run.metrics.read_text().splitlines()[-1])["epoch"] == 1
