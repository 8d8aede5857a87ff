"""The loop over steps and epochs: learning rate, validation, metrics. It is the same for every task."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from llm_jax.data import Batch, Batches
from llm_jax.errors import TrainingError
from llm_jax.model import Params
from llm_jax.training.config import TrainConfig
from llm_jax.training.metrics import Record, Sink
from llm_jax.training.progress import Progress
from llm_jax.training.saving import Saver
from llm_jax.training.schedules import learning_rate
from llm_jax.training.signals import StopRequest
from llm_jax.training.step import StepMetrics, TrainState, TrainStep
from llm_jax.training.validation import Validation


class _Speed:
    """Tokens or samples per second of the steps alone: validating and saving are left out."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._weight, self._start = 0.0, time.perf_counter()

    def add(self, weight: float) -> None:
        self._weight += weight

    def per_second(self) -> float:
        return self._weight / (time.perf_counter() - self._start)


@dataclass(kw_only=True)
class Loop:
    """A training run.

    Attributes:
        step: the jitted optimiser step.
        batches: each is all micro-batches of a step.
        frozen: parameters that the loss reads and no step changes.
        state: the arrays that every step replaces.
        progress: the plain numbers that are saved with the state.
    """

    config: TrainConfig
    step: TrainStep
    batches: Batches
    validation: Validation | None
    saver: Saver
    sinks: Sequence[Sink]
    stop: StopRequest
    frozen: Params
    state: TrainState
    progress: Progress
    _speed: _Speed = field(default_factory=_Speed, init=False)

    @property
    def total_steps(self) -> int:
        return self.config.training.epochs * self.batches.per_epoch

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.total_steps or self.progress.stops_early(self.config.training)

    def run(self) -> None:
        """Train from `progress` on, until the last epoch, early stopping, or a signal.

        Raises:
            TrainingError: the loss or a gradient is no longer finite.
        """
        if self.finished:
            return
        self._speed.restart()
        number, unread = self.progress.step, None
        for batch in self.batches.steps(number, self.total_steps):
            lr = self._learning_rate(number)
            self.state, metrics = self.step(self.state, self.frozen, self._micro_batches(batch), number, lr)
            if unread is not None:
                self._record(unread)  # one step late, so that the device always has work
            unread, number = metrics, number + 1
            stopping = self.stop.signum is not None
            if number % self.batches.per_epoch == 0 or self.saver.due(number) or stopping:
                self._record(unread)
                unread = None
                improved = number % self.batches.per_epoch == 0 and self._end_epoch()
                ending = stopping or self.finished
                self.saver.save(self.state, self.frozen, self.progress, improved=improved, ending=ending)
                if ending:
                    return
                self._speed.restart()

    def _record(self, metrics: StepMetrics) -> None:
        """Add a step's metrics to the progress, and write them at the intervals; waits until the step is done."""
        numbers: Any = jax.tree.map(lambda x: x.item(), jax.device_get(metrics))
        loss, grad_norm, weight, applied, aux = numbers
        lr = self._learning_rate(self.progress.step)
        if not math.isfinite(loss):
            raise self._diverged("loss", loss)
        if applied and not math.isfinite(grad_norm):
            raise self._diverged("gradient norm", grad_norm)
        self.progress = self.progress.stepped(loss, weight)
        self._speed.add(weight)
        step = self.progress.step
        if step % self.config.logging.log_interval == 0 or step % self.batches.per_epoch == 0:
            epoch = -(-step // self.batches.per_epoch)
            per_second = round(self._speed.per_second(), 1)
            record = {"step": step, "epoch": epoch, "loss": loss, "lr": lr, "per_second": per_second, **aux}
            # A skipped float16 step has no finite norm, and JSON has no infinity.
            self.write({"event": "step", **record, "grad_norm": grad_norm if applied else None})
            self._speed.restart()

    def _end_epoch(self) -> bool:
        """Validate and report; True where the validation loss is the best so far."""
        step, loss = self.progress.step, None
        epoch, train_loss = step // self.batches.per_epoch, self.progress.train_loss
        record: Record = {"epoch": epoch, "step": step, "train_loss": train_loss, "validation_loss": None}
        if self.validation is not None:
            loss, aux = self.validation(self.state.trainable, self.frozen)
            if not math.isfinite(loss):
                raise self._diverged("validation loss", loss)
            record |= {"validation_loss": loss, **{f"validation_{name}": value for name, value in aux.items()}}
        self.progress = self.progress.epoch_done(self.config.training, loss)
        self.write({"event": "epoch", **record, "best_validation_loss": self.progress.best.finite})
        return loss is not None and self.progress.best.stale == 0

    def _diverged(self, what: str, value: float) -> TrainingError:
        return TrainingError(
            f"The {what} became {value} at step {self.progress.step + 1}. Lower training.lr, lengthen "
            "training.warmup_epochs, or lower training.gradient_clip_val; the last saved state is intact."
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.training, step, self.batches.per_epoch, self.progress.lr_factor)

    def _micro_batches(self, batch: Batch) -> Batch:
        """[micro-batches · B, …] -> [micro-batches, B, …]"""
        count = self.config.optimization.gradient_accumulation_steps
        return {name: value.reshape(count, -1, *value.shape[1:]) for name, value in batch.items()}

    def write(self, record: Record) -> None:
        """Send a record to every sink."""
        for sink in self.sinks:
            sink.write(record)
