"""When a run is saved, in which order, and how it is restored."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from llm_jax import parallel
from llm_jax.checkpoint import PendingStep, TrainCheckpointer
from llm_jax.errors import CheckpointError, ConfigError, DamagedCheckpoint, TrainingError
from llm_jax.model import Params
from llm_jax.training.config import CheckpointConfig
from llm_jax.training.disk import check_free, full_disk_explained
from llm_jax.training.identity import Identity
from llm_jax.training.optimizer import evaluated_params
from llm_jax.training.progress import Progress
from llm_jax.training.run_directory import RunDirectory
from llm_jax.training.step import TrainState
from llm_jax.training.tasks import Task

Report = Callable[[str], None]  # what a person should know of


@dataclass(kw_only=True)
class Saver:
    """Writes the best model, the last one and the state to resume from into the directory of a run.

    Files are written by a thread while the next steps are computed. One save is written at a time: the next one waits.

    Attributes:
        identity: what a resumed run must agree with.
        interval: steps between saves.
    """

    task: Task
    run: RunDirectory
    config: CheckpointConfig
    identity: Identity
    interval: int
    report: Report
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "save"), init=False)
    _writing: "Future[None] | None" = field(default=None, init=False)

    def begin(self, state: TrainState, frozen: Params) -> None:
        """Replace an earlier run in the directory by the initial model."""
        if parallel.is_first():
            self.run.clear()
        with full_disk_explained(self.run.path, self.size(state, frozen)):
            params = self._saved(state, frozen)
            if parallel.is_first():
                self.task.save(self.run.last, params)
        parallel.wait_for_all("begin")

    def resume(self, run: RunDirectory, like: TrainState) -> tuple[TrainState, Progress]:
        """The newest saved state of `run` that is whole, whose models and metrics are copied into this run's directory.

        Newer states that are damaged are reported, and removed once a whole one is found.

        Args:
            like: a state of arrays or ShapeDtypeStructs, with the shapes to expect.

        Raises:
            ConfigError: the run was made with a setting that must not change.
            CheckpointError: every saved state is damaged.
        """
        checkpointer, damaged = run.checkpointer(), list[int]()
        for step in reversed(checkpointer.steps()):
            try:
                metadata = checkpointer.metadata(step)
                self.identity.check(metadata["identity"], run.path, self.report)
                tree = checkpointer.restore(step, _to_tree(like))
            except DamagedCheckpoint as error:
                self.report(f"{error} The step before it is tried.")
                damaged.append(step)
                continue
            with full_disk_explained(self.run.path, _bytes(tree)):
                if parallel.is_first():
                    self.run.adopt(run)
            if self.run.path.resolve() == run.path.resolve():
                for newer in damaged:  # they are made again
                    checkpointer.remove(newer)
            parallel.wait_for_all("resume")
            state = TrainState(tree["params"], tree["optimizer"], tree["loss_scale"])
            return state, Progress.from_dict(metadata["progress"])
        raise CheckpointError(
            f"Every saved state in {checkpointer.directory} is damaged (steps {', '.join(map(str, damaged))}). "
            f"Start anew without --resume; {run.last} may still hold the last model."
        )

    def due(self, step: int) -> bool:
        """True after every `interval` steps, and after every save_interval_steps."""
        intervals = (self.interval, self.config.save_interval_steps)
        return any(interval is not None and step % interval == 0 for interval in intervals)

    def score(self, measured: Mapping[str, Any]) -> float | None:
        """checkpoint.best_metric at the end of an epoch, negated where higher is better; None where it has no value.

        Raises:
            ConfigError: nothing of that name is measured.
        """
        name = self.config.best_metric
        if name not in measured:
            known = ", ".join(sorted(measured.keys() - {"epoch", "step"}))
            raise ConfigError(f"checkpoint.best_metric is {name!r}, which this run does not measure: {known}.")
        value = measured[name]
        if value is None or not math.isfinite(value):
            return None
        return float(value) if self.config.best_mode == "min" else -float(value)

    def save(self, state: TrainState, frozen: Params, progress: Progress, *, improved: bool, ending: bool) -> None:
        """Begin to write what is due after `progress.step` steps; when `ending`, returns once it is on the disk.

        While steps fail nothing but the end is saved: states from before could be lost to it.

        Args:
            improved: the best model is due.
            ending: no step follows, so that the last model and the state are due.

        Raises:
            TrainingError: the state is not finite.
            CheckpointError: the disk is full, now or when the save before was written.
        """
        due = ending or (self.due(progress.step) and not progress.failures)
        best = improved and self.config.save_best
        if not (due or best):
            return
        self.wait()
        # The state is committed last: once it exists, the models that belong to it do too.
        directories = [directory for directory, wanted in ((self.run.best, best), (self.run.last, due)) if wanted]
        size = self.size(state, frozen)
        with full_disk_explained(self.run.path, size):
            check_free(self.run.path, size)
            pending = self._begin_state(state, progress) if due else None
        self._writing = self._writer.submit(self._write, directories, self._saved(state, frozen), pending, size)
        if ending:
            self.wait()

    def size(self, state: TrainState, frozen: Params) -> int:
        """Bytes that a save takes beside what is there, about: models are replaced one after the other."""
        return _bytes(self.task.saved_params(state.trainable, frozen)) + _bytes(_to_tree(state))

    def _saved(self, state: TrainState, frozen: Params) -> Params:
        """What a model directory has, on the host."""
        return _on_host(self.task.saved_params(evaluated_params(state.optimizer, state.trainable), frozen))

    def wait(self) -> None:
        """Returns once the save that is being written is on the disk. Raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the save that is being written end."""
        self._writer.shutdown()

    def describe(self) -> str:
        """What is saved, for the message of a run that cannot go on."""
        with suppress(CheckpointError):  # what matters is what is there
            self.wait()
        steps = self._checkpointer.steps()
        if not steps:
            return "No state has been saved yet."
        return f"The newest saved state, in {self.run.path}, is that of step {steps[-1]}; every value in it is finite."

    def _begin_state(self, state: TrainState, progress: Progress) -> PendingStep:
        metadata = {"progress": progress.to_dict(), "identity": self.identity.to_dict()}
        try:
            return self._checkpointer.save(progress.step, _to_tree(state), metadata)
        except TrainingError as error:
            raise TrainingError(f"{error} Lower training.lr. {self.describe()}") from None

    def _write(self, directories: list[Path], params: Params, pending: PendingStep | None, size: int) -> None:
        try:
            with full_disk_explained(self.run.path, size):
                for directory in directories if parallel.is_first() else ():
                    self.task.save(directory, params)
                if pending is not None:
                    pending.commit()
        except Exception:
            if pending is not None:
                pending.discard()
            raise
        if parallel.is_first():
            self._prune()

    def _prune(self) -> None:
        """Remove all states but the newest and the best."""
        steps = self._checkpointer.steps()
        retained = set(steps[-self.config.keep_last_n :])
        if self.config.keep_best_n:
            scores = {step: self._score(step) for step in steps}
            ranked = sorted((score, -step) for step, score in scores.items() if score is not None)
            retained |= {-step for _, step in ranked[: self.config.keep_best_n]}
        for step in steps:
            if step not in retained:
                self._checkpointer.remove(step)

    def _score(self, step: int) -> float | None:
        score: float | None = self._checkpointer.unverified_metadata(step).get("progress", {}).get("last_score")
        return score

    @cached_property
    def _checkpointer(self) -> TrainCheckpointer:
        return self.run.checkpointer()


def _to_tree(state: TrainState) -> dict[str, Any]:
    """The state under the names that saved runs have always had."""
    return {"params": state.trainable, "optimizer": state.optimizer, "loss_scale": state.loss_scale}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _on_host(params: Params) -> Params:
    """Copies that outlive the arrays, which the next step donates."""
    copies: dict[str, Any] = {name: parallel.on_host(value) for name, value in params.items()}
    return copies
