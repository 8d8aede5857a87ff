"""The loop over steps and epochs: learning rate, validation, metrics. It is the same for every task."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from llm_jax.data import Batch, Batches
from llm_jax.errors import TrainingError
from llm_jax.model import Params
from llm_jax.training.config import TrainConfig
from llm_jax.training.metrics import Record, Sink
from llm_jax.training.optimizer import evaluated_params
from llm_jax.training.placement import Placement
from llm_jax.training.progress import Progress
from llm_jax.training.saving import Saver
from llm_jax.training.schedules import Timetable, learning_rate
from llm_jax.training.signals import StopRequest
from llm_jax.training.speed import Speed
from llm_jax.training.step import StepMetrics, TrainState, TrainStep
from llm_jax.training.validation import Validation


@dataclass(kw_only=True)
class Loop:
    """A training run.

    Attributes:
        step: the jitted optimiser step.
        batches: each is all micro-batches of a step, or this process's share of them.
        micro_batches: of a step.
        validations: on further held-out examples, by name.
        frozen: parameters that the loss reads and no step changes.
        state: the arrays that every step replaces.
        progress: the plain numbers that are saved with the state.
        samples: prompts, and what the model writes after them.
        scores: further measurements of the model, by name.
    """

    config: TrainConfig
    step: TrainStep
    times: Timetable
    batches: Batches
    micro_batches: int
    validation: Validation | None
    validations: Mapping[str, Validation]
    placement: Placement
    saver: Saver
    sinks: list[Sink]
    stop: StopRequest
    frozen: Params
    state: TrainState
    progress: Progress
    samples: Callable[[TrainState, Params], Iterable[tuple[str, str]]]
    scores: Callable[[TrainState, Params], Mapping[str, float]]
    speed: Speed

    @property
    def total_steps(self) -> int:
        return self.times.total

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.total_steps or self.progress.stops_early(self.config.training)

    def run(self) -> None:
        """Train from `progress` on, until the last epoch, early stopping, or a signal.

        Raises:
            TrainingError: too many steps in a row failed, or the validation loss or the state is not finite.
            CheckpointError: the disk is full.
        """
        try:
            self._run()
            self.saver.wait()
        finally:
            self.saver.close()

    def _run(self) -> None:
        # A signal may have ended the run before its last evaluation.
        if (self._evaluation_is_due() and self._settle()) or self.finished:
            return
        self.speed.restart()
        number, unread = self.progress.step, None
        for batch in self.batches.steps(number, self.total_steps):
            lr = self._learning_rate(number)
            self.state, metrics = self.step(self.state, self.frozen, self._micro_batches(batch), number, lr)
            stopping = self.stop.poll()
            if unread is not None:
                self._record(unread)  # one step late, so that the device always has work
            unread, number = metrics, number + 1
            if self.times.evaluates_after(number) or self.saver.due(number) or stopping:
                self._record(unread)
                unread = None
                if self._settle():
                    return
                self.speed.restart()

    def _settle(self) -> bool:
        """Evaluate where it is due, and save what is due. True where no step follows."""
        improved = self._evaluation_is_due() and self._evaluate()
        ending = self.stop.signum is not None or self.finished
        self.saver.save(self.state, self.frozen, self.progress, improved=improved, ending=ending)
        return ending

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        return self.times.evaluates_after(step) and step > self.progress.evaluated

    def _record(self, metrics: StepMetrics) -> None:
        """Add a step's metrics to the progress, and write them at the intervals; waits until the step is done."""
        numbers: Any = jax.tree.map(lambda x: x.item(), jax.device_get(metrics))
        loss, grad_norm, weight, applied, failed, aux = numbers
        lr = self._learning_rate(self.progress.step)
        self.progress = self.progress.failed() if failed else self.progress.stepped(loss, weight)
        self.speed.add(weight)
        step = self.progress.step
        if self.progress.failures > self.config.training.max_skipped_steps:
            what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", grad_norm)
            raise self._diverged(
                f"The {what} became {value} at step {step}, and {self.progress.failures} steps in a row failed so "
                "(training.max_skipped_steps)"
            )
        if failed or step % self.config.logging.log_interval == 0 or self.times.evaluates_after(step):
            epoch = -(-step // self.times.per_epoch)
            # JSON has no infinity, and a skipped float16 step has no finite norm.
            measured = {"loss": loss, "grad_norm": grad_norm if applied else math.nan, **aux}
            measured = {name: value if math.isfinite(value) else None for name, value in measured.items()}
            record = {"step": step, "epoch": epoch, "lr": lr, **self.speed.measured(), **measured}
            self.write({"event": "step", **record, "skipped": self.progress.skipped})
            self.speed.restart()

    def _evaluate(self) -> bool:
        """Validate and report; True where checkpoint.best_metric is the best so far. A signal leaves it undone."""
        step, loss = self.progress.step, None
        epoch, train_loss = self.times.epochs(step), self.progress.train_loss
        record: Record = {"epoch": epoch, "step": step, "train_loss": train_loss, "validation_loss": None}
        trainable = evaluated_params(self.state.optimizer, self.state.trainable)
        if self.validation is not None:
            found = self.validation(trainable, self.frozen, stopped=self.stop.poll)
            if found is None:
                return False
            loss, aux = found
            if not math.isfinite(loss):
                raise self._diverged(f"The validation loss became {loss} at step {step}")
            record |= {"validation_loss": loss, **{f"validation_{name}": value for name, value in aux.items()}}
        for name, validation in self.validations.items():
            found = validation(trainable, self.frozen, stopped=self.stop.poll)
            if found is None:
                return False
            record[f"validation_loss_{name}"] = found[0] if math.isfinite(found[0]) else None
        record |= self.scores(self.state, self.frozen)
        score = self.saver.score(record)
        self.progress = self.progress.measured(self.config.training, loss, score)
        self.write({"event": "epoch", **record, "best_validation_loss": self.progress.best.finite})
        for prompt, text in self.samples(self.state, self.frozen):
            self.write({"event": "sample", "step": step, "prompt": prompt, "text": text})
        return score is not None and self.progress.score.stale == 0

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what}. Lower training.lr, lengthen training.warmup_epochs, or lower training.gradient_clip_val. "
            f"{self.saver.describe()}"
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.training, step, self.times, self.progress.lr_factor)

    def _micro_batches(self, batch: Batch) -> Batch:
        """[micro-batches · B, …] -> [micro-batches, B, …], of all processes."""
        count = self.micro_batches
        split = {name: value.reshape(count, -1, *value.shape[1:]) for name, value in batch.items()}
        return self.placement.put_batch(split, self.batches.size // count, axis=1)

    def write(self, record: Record) -> None:
        """Send a record to every sink. One that cannot write is reported, and done without from there on."""
        for sink in list(self.sinks):
            try:
                sink.write(record)
            except OSError as error:
                self.sinks.remove(sink)
                self.saver.report(f"{type(sink).__name__} cannot be written any more ({error}); training goes on.")
