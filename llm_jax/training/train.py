"""A run from its configuration to its directory."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import jax

from llm_jax.errors import ConfigError
from llm_jax.tokenizers import load_tokenizer
from llm_jax.training.config import TaskName, TrainConfig, write_config
from llm_jax.training.console import RunConsole
from llm_jax.training.loop import Loop
from llm_jax.training.metrics import LossPlot, MetricsFile, TensorBoard
from llm_jax.training.progress import Progress
from llm_jax.training.run_directory import RunDirectory, restore_state, run_to_resume
from llm_jax.training.signals import stop_on_signals
from llm_jax.training.tasks.language_model import LanguageModelTask
from llm_jax.training.tasks.regression import RegressionTask
from llm_jax.training.tasks.task import Task


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        unit: "tokens" or "samples", what losses are averaged over.
        signum: the signal that stopped it, None where none did.
    """

    run: RunDirectory
    progress: Progress
    total_steps: int
    unit: str
    baseline_name: str
    baseline: float
    signum: int | None

    @property
    def is_text(self) -> bool:
        return self.unit == "tokens"


def train(task_name: TaskName, config: TrainConfig) -> Outcome:
    """Train as configured; everything that comes of it lies in checkpoint.checkpoint_dir.

    Raises:
        ConfigError, DataError, TokenizerError, CheckpointError: something is missing or contradicts something else.
        TrainingError: the loss is no longer finite.
    """
    if config.distributed.num_nodes > 1:
        raise ConfigError(
            f"distributed.num_nodes is {config.distributed.num_nodes}; this version trains on one node. Set it to 1."
        )
    console = RunConsole(config.logging.log_level)
    run, resumed = RunDirectory(Path(config.checkpoint.checkpoint_dir)), run_to_resume(config.checkpoint)
    task = _build_task(task_name, config, resumed)
    with contextlib.ExitStack() as stack:
        if not config.optimization.use_compile:
            console.say("use_compile is false: every operation runs by itself, to debug. This is very slow.", "WARNING")
            stack.enter_context(jax.disable_jit())
        loop = Loop(task, config, run, [], stack.enter_context(stop_on_signals()))
        if resumed is not None:
            loop.state, loop.progress = restore_state(resumed, loop.state, loop.identity)
            run.adopt(resumed)
            console.say(f"Resuming {resumed.path} at step {loop.progress.step}.")
        else:
            if run.holds_a_run():
                console.say(f"Replacing the earlier run in {run.path} (--resume would continue it).", "WARNING")
            run.clear()
            task.save(run.last, loop.state.params)
        write_config(config, run.config)
        resume_at = loop.progress.step if resumed else None
        tensorboard = stack.enter_context(contextlib.closing(TensorBoard(config.logging.log_dir, resume_at)))
        metrics = stack.enter_context(contextlib.closing(MetricsFile(run.metrics, resume_at)))
        stack.callback(console.close)
        loop.sinks = [metrics, LossPlot(run.metrics, run.plot), tensorboard, console]
        _announce(loop)
        loop.run_to_end()
    name, baseline = task.baseline
    return Outcome(run, loop.progress, loop.total_steps, task.unit, name, baseline, loop.stop.signum)


def _build_task(name: TaskName, config: TrainConfig, resumed: RunDirectory | None) -> Task:
    if name == "regression":
        return RegressionTask.build(config)
    return LanguageModelTask.build(config, load_tokenizer(resumed.last) if resumed else None)


def _announce(loop: Loop) -> None:
    name, baseline = loop.task.baseline
    record = {
        "event": "run",
        "start": loop.progress.step,
        "epochs": loop.config.training.epochs,
        "steps_per_epoch": loop.batches.per_epoch,
        "examples": len(loop.task.train),
        "held_out": 0 if loop.task.validation is None else len(loop.task.validation),
        "unit": loop.task.unit,
        "parameters": sum(value.size for value in loop.state.params.values()),
        "dtype": str(loop.dtype),
        "device": jax.devices()[0].device_kind,
        "baseline_name": name,
        "baseline": baseline,
    }
    for sink in loop.sinks:
        sink.write(record)
