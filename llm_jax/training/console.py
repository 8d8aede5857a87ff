"""The console of a run: a progress bar in a terminal, plain lines anywhere else."""

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class RunConsole:
    """A sink that prints records at log_level INFO and below, and messages at their own level."""

    def __init__(self, log_level: str, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._threshold = LEVELS.index(log_level)
        self._bar: Progress | None = None
        self._run: dict[str, Any] = {}

    def say(self, message: str, level: str = "INFO") -> None:
        if LEVELS.index(level) >= self._threshold:
            self._console.print(message, markup=False)

    def write(self, record: dict[str, Any]) -> None:
        match record["event"]:
            case "run":
                self._run = record
                self.say(_describe_run(record))
                if self._console.is_terminal and self._threshold <= LEVELS.index("INFO"):
                    self._start_bar(record)
            case "step":
                self._step(record)
            case "epoch":
                self.say(self._epoch(record))
            case "sample":
                self.say(f"sample: {record['prompt']} → {record['text'].strip()}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start_bar(self, run: dict[str, Any]) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]}  {task.fields[speed]}  left"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=run["steps"], completed=run["start"], epoch="", loss="–", speed="")
        self._bar.start()

    def _step(self, record: dict[str, Any]) -> None:
        epoch = f"{record['epoch']}/{self._run['epochs']}"
        speed = f"{record['per_second']:,.0f} {self._run['unit']}/s"
        if "mfu" in record:
            speed += f"  MFU {record['mfu']:.0%}"
        if "peak_memory" in record:
            speed += f"  {record['peak_memory'] / 1e9:.1f} GB"
        if self._bar is not None:
            loss = _number(record["loss"])
            self._bar.update(self._task, completed=record["step"], epoch=epoch, loss=loss, speed=speed)
        else:
            norm = record["grad_norm"]
            gradient = "gradient not finite, skipped" if norm is None else f"gradient {norm:.2f}"
            self.say(
                f"epoch {epoch}  step {record['step']}  loss {_number(record['loss'])}  lr {record['lr']:.2e}  "
                f"{gradient}  {speed}"
            )

    def _epoch(self, record: dict[str, Any]) -> str:
        line = f"epoch {record['epoch']}/{self._run['epochs']} done  training loss {record['train_loss']:.4f}"
        if record["validation_loss"] is not None:
            line += f"  validation loss {record['validation_loss']:.4f}"
            if self._run["unit"] == "tokens":
                line += f"  perplexity {math.exp(min(record['validation_loss'], 700)):.2f}"
        return line


def _number(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def _describe_run(run: dict[str, Any]) -> str:
    trained = f"{run['trainable']:,} of {run['parameters']:,}"
    trained = f"{run['parameters']:,}" if run["trainable"] == run["parameters"] else trained
    lines = [
        f"{trained} parameters, {run['examples']:,} training and {run['held_out']:,} held-out examples, "
        f"{run['steps_per_epoch']:,} steps per epoch, {run['dtype']} on {run['device']}",
        f"{run['baseline_name']}: {run['baseline']:.4f}",
    ]
    return "\n".join(lines)
