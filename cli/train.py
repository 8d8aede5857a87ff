"""`llm-train`: parse the flags, build the configuration, train, report the result."""

from __future__ import annotations

import math
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import _options
from cli._errors import Command
from llm_jax.memory import uncollected

if TYPE_CHECKING:
    from llm_jax.model import Model
    from llm_jax.parallel import DeviceName
    from llm_jax.tokenizers import Tokenizer
    from llm_jax.training import TaskName, TrainConfig, TrainingResult

SAMPLE_TOKENS = 80
TASKS = ("lm", "sft", "dpo", "distill", "regression")

# Flag -> the setting it stands for.
FLAGS = {
    "init_from": "model.init_from",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "num_samples": "training.num_samples",
    "seed": "training.seed",
    "compile": "optimization.use_compile",
    "amp": "optimization.use_amp",
    "profile": "logging.profile_steps",
    "checkpoint_dir": "checkpoint.checkpoint_dir",
    "resume": "checkpoint.resume_from_checkpoint",
    "mesh": "distributed.mesh",
}


@click.command("llm-train", cls=Command)
@click.option("--task", "task", type=click.Choice(TASKS), required=True, help="What to learn.")
@click.option("--config-path", type=Path, help="YAML file with the sections model, data, training, …")
@click.option("--init-from", help="Model to start from: a directory, a run, a file, a name on the Hub.")
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--batch-size", type=int, help="Examples per step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--num-samples", type=int, help="Samples to generate (regression).")
@click.option("--seed", type=int, help="Of weights, shuffling and dropout.")
@click.option("--compile/--no-compile", default=None, help="Compile the step; without, it is slow but can be debugged.")
@click.option("--amp/--no-amp", default=None, help="Compute in 16 bits, keep the parameters in 32.")
@click.option(
    "--profile",
    type=int,
    is_flag=False,
    flag_value=5,
    metavar="[STEPS]",
    help="Trace some steps (5) with XLA's profiler, into the run's profile/.",
)
@click.option("--checkpoint-dir", help="Where the run is saved.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    metavar="[RUN]",
    help="Go on where the run in --checkpoint-dir, or in RUN, was saved last.",
)
@click.option(
    "--mesh",
    callback=lambda _context, _option, text: text and "{" + text.replace("=", ": ") + "}",
    metavar="AXIS=SIZE,…",
    help="Devices along data, fsdp and model: data=2,fsdp=4.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="Any other setting; repeatable.")
@_options.version
def main(task: TaskName, config_path: Path | None, device: DeviceName, settings: tuple[str, ...], **flags: Any) -> None:
    """Train a model, or fine-tune one that exists, on what the task learns from:

    \b
      lm          text, token by token
      sft         conversations, of which the assistant's answers are learnt
      dpo         pairs of answers, one of which is better
      distill     the distributions of a larger model (distillation.teacher)
      regression  synthetic samples; works as it is

    \b
      llm-train --task regression --epochs 10 --batch-size 32
      llm-train --task lm --config-path configs/example.yaml --epochs 5
      llm-train --task lm --config-path configs/example.yaml --resume
      llm-train --task sft --init-from MODEL --set data.dataset_path=talks.jsonl --set lora.rank=8

    Settings come from the YAML file, then from the environment (LLM_TRAINING__LR=0.0003), then from these flags; the
    last one wins. Ctrl-C finishes the step and saves; --resume goes on from there.
    """
    with uncollected():
        from llm_jax.training import Setting, load_train_config

    overrides = [Setting.parse(text, "--set") for text in settings]
    for name, value in flags.items():
        if value is not None:
            section, field = FLAGS[name].split(".")
            overrides.append(Setting(section, field, value, f"--{name.replace('_', '-')}"))
    run_training(task, load_train_config(config_path, overrides=overrides), device)


def run_training(task: TaskName, config: TrainConfig, device: DeviceName) -> None:
    """Train, then print the files and the losses. Exits with 128 + signal after a signal."""
    from llm_jax.parallel import is_first, leaving_on_failure, use_device
    from llm_jax.training import join, train

    join(config.distributed)
    use_device(device)
    examiner = partial(_examine, config) if config.logging.tasks else None
    with leaving_on_failure():
        result = train(task, config, writer=_write, examiner=examiner)
    if not is_first():
        raise SystemExit(0 if result.signum is None else 128 + result.signum)
    if result.signum is not None:
        name, step = signal.Signals(result.signum).name, result.progress.step
        click.echo(f"Stopped by {name} after step {step} of {result.total_steps}; saved in {result.run.path}.")
        click.echo("Add --resume to the same command to go on.")
        raise SystemExit(128 + result.signum)
    _summarize(result)
    if task in ("lm", "distill"):
        _show_sample(result)


def _summarize(result: TrainingResult) -> None:
    progress = result.progress
    stopped = "early, " if progress.step < result.total_steps else ""
    click.echo(f"\nDone {stopped}after {progress.step} steps. Everything is in {result.run.path}:")
    click.echo("  best, last     model directories, or those of adapters, that every command takes")
    click.echo("  metrics.jsonl  every measurement; loss.png shows them")
    click.echo("  state          what --resume goes on from")
    for label, loss in (("best", progress.best.finite), ("final", progress.last_loss)):
        if loss is not None:
            perplexity = f", perplexity {math.exp(min(loss, 700)):.2f}" if result.is_text else ""
            click.echo(f"{label} validation loss {loss:.4f}{perplexity}")
    click.echo(f"{result.baseline_name} {result.baseline:.4f}")


def _examine(config: TrainConfig, model: Model, tokenizer: Tokenizer) -> dict[str, float]:
    """The metrics of a model in training on logging.tasks, as task/metric."""
    from llm_jax.evaluation import evaluate_tasks

    settings = config.logging
    found = evaluate_tasks(model, tokenizer, settings.tasks, path=settings.tasks_path, limit=settings.tasks_limit)
    return {f"{task}/{metric}": value for task, metrics in found.items() for metric, value in metrics.items()}


def _write(model: Model, tokenizer: Tokenizer, prompt: str, answers: bool, tokens: int) -> str:
    """What a model in training answers to a prompt, or how it goes on."""
    from llm_jax.inference import Conversation, SamplingParams, generate

    if not answers:
        return generate(model, tokenizer, prompt, tokens, temperature=0.7, top_p=0.9, seed=0)[len(prompt) :]
    sampling = SamplingParams(temperature=0.0, max_new_tokens=tokens)
    return "".join(piece.text for piece in Conversation(model, tokenizer, sampling).answer(prompt))


def _show_sample(result: TrainingResult) -> None:
    from llm_jax.checkpoint import load_model
    from llm_jax.data import SEPARATOR
    from llm_jax.inference import generate

    loaded = load_model(result.run.path)
    assert loaded.tokenizer is not None  # saved with the model
    prompt = SEPARATOR if loaded.tokenizer.bos_token_id is None else ""  # precedes every document
    tokens = min(SAMPLE_TOKENS, loaded.model.config.max_seq_len - 4)
    text = generate(loaded.model, loaded.tokenizer, prompt, tokens, temperature=0.7, top_p=0.9, seed=0)
    click.echo(f"\nA sample of {loaded.path}:\n{text.strip()}")


if __name__ == "__main__":
    main()
