"""The sinks of metrics.

A record is a flat dict with an "event": run (once), step (every log_interval), epoch (an evaluation), sample (a text).
"""

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from llm_jax.atomic import atomic_file
from llm_jax.errors import ConfigError
from llm_jax.training.plot import draw_losses

Record = dict[str, Any]


class Sink(Protocol):
    def write(self, record: Record) -> None: ...


class MetricsFile:
    """One JSON object per line, flushed as soon as it is written."""

    def __init__(self, path: Path, resume_at: int | None) -> None:
        """Starts the file anew, or retains the records up to step `resume_at`: later steps are done again."""
        retained = [] if resume_at is None else [r for r in read_metrics(path) if r.get("step", 0) <= resume_at]
        with atomic_file(path) as new:
            new.write_text("".join(json.dumps(record) + "\n" for record in retained), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, record: Record) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[Record]:
    """The records of a metrics file. Lines that are damaged, or that a killed process left incomplete, are ignored."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if line.endswith("\n") and isinstance(record, dict) and isinstance(record.get("step", 0), int):
                    yield record


class LossPlot:
    """`loss.png`, drawn from the metrics file after every epoch."""

    def __init__(self, metrics: Path, image: Path) -> None:
        self._metrics, self._image = metrics, image

    def write(self, record: Record) -> None:
        if record["event"] == "epoch":
            draw_losses(list(read_metrics(self._metrics)), self._image)


class TensorBoard:
    """Scalars for TensorBoard, by optimiser step."""

    def __init__(self, directory: Path, resume_at: int | None) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=None if resume_at is None else resume_at + 1)

    def write(self, record: Record) -> None:
        for name, value in measurements(record).items():
            self._writer.add_scalar(name, value, record["step"])
        if record["event"] == "sample":
            self._writer.add_text("sample", f"{record['prompt']}\n\n{record['text']}", record["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Scalars for Weights & Biases, by optimiser step."""

    def __init__(self, project: str, run: Path, config: Record, *, resume: bool) -> None:
        """Starts a run there, or goes on with that of the same directory.

        Raises:
            ConfigError: the wandb package is missing.
        """
        try:
            import wandb
        except ImportError:
            raise ConfigError(
                "logging.wandb_project is set, and the wandb package is missing: pip install wandb."
            ) from None
        run.mkdir(parents=True, exist_ok=True)
        identity = run / "wandb-id"
        if not (resume and identity.exists()):
            identity.write_text(uuid.uuid4().hex, encoding="utf-8")
        self._run = wandb.init(
            project=project,
            name=run.name,
            id=identity.read_text(encoding="utf-8"),
            dir=run,
            config=config,
            resume="allow",
        )

    def write(self, record: Record) -> None:
        values: Record = dict(measurements(record))
        if record["event"] == "sample":
            values["sample"] = f"{record['prompt']}\n\n{record['text']}"
        if values:
            self._run.log(values, step=record["step"])

    def close(self) -> None:
        self._run.finish()


def measurements(record: Record) -> dict[str, float]:
    """The numbers of a step or an evaluation, by event and name."""
    if record["event"] not in ("step", "epoch"):
        return {}
    return {
        f"{record['event']}/{name}": value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }
