"""The loop: steps, epochs, validation, saving. It knows neither text nor regression."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llm_jax.data import Batches
from llm_jax.errors import TrainingError
from llm_jax.training.config import TrainConfig
from llm_jax.training.metrics import Sink
from llm_jax.training.optimizer import adamw
from llm_jax.training.precision import compute_dtype
from llm_jax.training.progress import Progress
from llm_jax.training.run_directory import RunDirectory, save_state
from llm_jax.training.schedules import learning_rate
from llm_jax.training.signals import StopRequest
from llm_jax.training.step import StepMetrics, initial_state, make_eval_step, make_train_step
from llm_jax.training.tasks.task import Task


@dataclass
class Loop:
    """A run under way: `state` on the device, `progress` on the host; the two are saved together."""

    task: Task
    config: TrainConfig
    run: RunDirectory
    sinks: Sequence[Sink]
    stop: StopRequest

    def __post_init__(self) -> None:
        training, optimization = self.config.training, self.config.optimization
        self.parts = optimization.gradient_accumulation_steps
        self.batches = Batches(
            source=self.task.train,
            size=min(training.batch_size * self.parts, -(-len(self.task.train) // self.parts) * self.parts),
            seed=training.seed,
            workers=optimization.num_workers,
            prefetch=optimization.prefetch_factor,
        )
        self.dtype = compute_dtype(optimization)
        optimizer = adamw(
            beta1=training.beta1,
            beta2=self.task.beta2 if training.beta2 is None else training.beta2,
            weight_decay=training.weight_decay,
            clip=training.gradient_clip_val,
        )
        self.train_step = make_train_step(self.task.loss, optimizer, dtype=self.dtype, seed=training.seed)
        self.eval_step = make_eval_step(self.task.loss, dtype=self.dtype)
        self.state = initial_state(self.task.init(training.seed), optimizer, self.dtype)
        self.progress = Progress()
        self.checkpointer = self.run.checkpointer(self.config.checkpoint.keep_last_n)

    @property
    def total_steps(self) -> int:
        return self.config.training.epochs * self.batches.per_epoch

    @property
    def identity(self) -> dict[str, Any]:
        """What a continuation must agree with."""
        return {
            **self.task.architecture,
            "dtype": str(self.dtype),
            "seed": self.config.training.seed,
            "steps per epoch": self.batches.per_epoch,
        }

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.total_steps or self.progress.exhausted(self.config.training)

    def run_to_end(self) -> None:
        """Train from `progress` on, until the last epoch, early stopping, or a signal.

        Raises:
            TrainingError: the loss or a gradient is no longer finite.
        """
        if self.finished:
            return
        self._start_clock()
        number, unread = self.progress.step, None
        for batch in self.batches.steps(number, self.total_steps):
            lr = self._learning_rate(number)
            self.state, metrics = self.train_step(self.state, self._parts(batch), number, lr)
            if unread is not None:
                self._account(unread)  # one step late, so that the device always has work
            unread, number = metrics, number + 1
            stopping = self.stop.signum is not None
            if number % self.batches.per_epoch == 0 or self._save_due(number) or stopping:
                self._account(unread)
                unread = None
                self._boundary(stopping)
                if stopping or self.finished:
                    return

    def validate(self) -> float | None:
        """Mean loss over the held-out examples."""
        if self.task.validation is None:
            return None
        size = min(self.config.training.batch_size, len(self.task.validation))
        batches = Batches(source=self.task.validation, size=size)
        sums = [self.eval_step(self.state.params, batch) for batch in batches.steps(0, batches.per_epoch)]
        losses, weights = np.asarray(jax.device_get(sums), np.float64).T
        return float(losses.sum() / weights.sum())

    def _boundary(self, stopping: bool) -> None:
        """What happens between steps: the end of an epoch, a save."""
        step, checkpoint = self.progress.step, self.config.checkpoint
        epoch, within = divmod(step, self.batches.per_epoch)
        improved = False
        if within == 0:
            improved = self._end_epoch(epoch)
        if improved and checkpoint.save_best:
            self.task.save(self.run.best, self.state.params)
        epoch_due = within == 0 and epoch % checkpoint.save_interval == 0
        if epoch_due or self._save_due(step) or stopping or self.finished:
            # The state comes last: what it promises is then already there.
            self.task.save(self.run.last, self.state.params)
            save_state(self.checkpointer, self.state, self.progress, self.identity)
        self._start_clock()

    def _start_clock(self) -> None:
        """Speed is that of steps alone: validating and saving are left out."""
        self.seen, self.since = 0.0, time.perf_counter()

    def _end_epoch(self, epoch: int) -> bool:
        """Validate and report; True where the validation loss is the best so far."""
        train_loss, loss = self.progress.train_loss, self.validate()
        if loss is not None and not math.isfinite(loss):
            raise self._diverged("validation loss", loss)
        record = {"epoch": epoch, "step": self.progress.step, "train_loss": train_loss, "validation_loss": loss}
        self.progress = self.progress.epoch_done(self.config.training, loss)
        self._write({"event": "epoch", **record, "best_validation_loss": self.progress.best.finite})
        return loss is not None and self.progress.best.stale == 0

    def _account(self, metrics: StepMetrics) -> None:
        """Take in what a step measured; this waits for the step to be done."""
        loss, grad_norm, weight, applied = (x.item() for x in jax.device_get(metrics))
        lr = self._learning_rate(self.progress.step)
        if not math.isfinite(loss):
            raise self._diverged("loss", loss)
        if applied and not math.isfinite(grad_norm):
            raise self._diverged("gradient norm", grad_norm)
        self.progress = self.progress.stepped(loss, weight)
        self.seen += weight
        step = self.progress.step
        if step % self.config.logging.log_interval == 0 or step % self.batches.per_epoch == 0:
            speed = self.seen / (time.perf_counter() - self.since)
            self._start_clock()
            epoch = -(-step // self.batches.per_epoch)
            record = {"step": step, "epoch": epoch, "loss": loss, "lr": lr, "per_second": round(speed, 1)}
            # A skipped float16 step has no finite norm, and JSON has no infinity.
            self._write({"event": "step", **record, "grad_norm": grad_norm if applied else None})

    def _diverged(self, what: str, value: float) -> TrainingError:
        return TrainingError(
            f"The {what} became {value} at step {self.progress.step + 1}. Lower training.lr, lengthen "
            "training.warmup_epochs, or lower training.gradient_clip_val; the last saved state is intact."
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.training, step, self.batches.per_epoch, self.progress.lr_factor)

    def _save_due(self, step: int) -> bool:
        interval = self.config.checkpoint.save_interval_steps
        return interval is not None and step % interval == 0

    def _parts(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """[A · B, …] -> [A, B, …]"""
        return {name: value.reshape(self.parts, -1, *value.shape[1:]) for name, value in batch.items()}

    def _write(self, record: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(record)
