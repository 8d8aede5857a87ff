"""When a run is saved, in which order, and how it is restored."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import ConfigError
from llm_jax.model import Params
from llm_jax.training.config import CheckpointConfig
from llm_jax.training.progress import Progress
from llm_jax.training.run_directory import RunDirectory
from llm_jax.training.step import TrainState
from llm_jax.training.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the best model, the last one and the state to resume from into the directory of a run.

    Attributes:
        identity: plain values that a resumed run must agree with.
    """

    task: Task
    run: RunDirectory
    config: CheckpointConfig
    identity: dict[str, Any]
    steps_per_epoch: int

    def begin(self, state: TrainState, frozen: Params) -> None:
        """Replace an earlier run in the directory by the initial model."""
        self.run.clear()
        self._save_model(self.run.last, state, frozen)

    def resume(self, run: RunDirectory, like: TrainState) -> tuple[TrainState, Progress]:
        """The latest saved state of `run`, whose models and metrics are copied into the directory of this run.

        Args:
            like: a state of arrays or ShapeDtypeStructs, with the shapes to expect.

        Raises:
            ConfigError: the run was made with another architecture, or another number of steps per epoch.
            CheckpointError: the saved state is damaged.
        """
        checkpointer = run.checkpointer()
        step = checkpointer.latest_step()
        assert step is not None  # run.exists()
        metadata = checkpointer.metadata(step)
        for name, value in self.identity.items():
            saved = metadata["identity"].get(name)
            if saved != value:
                raise ConfigError(
                    f"The run in {run.path} was made with {name} = {saved!r}, and now it is {value!r}. "
                    "Resume with the configuration of that run, or start a new one in another checkpoint_dir."
                )
        tree, metadata = checkpointer.restore(step, _to_tree(like))
        self.run.adopt(run)
        state = TrainState(tree["params"], tree["optimizer"], tree["loss_scale"])
        return state, Progress.from_dict(metadata["progress"])

    def due(self, step: int) -> bool:
        """True at the end of every save_interval epochs, and after every save_interval_steps steps."""
        intervals = (self.config.save_interval * self.steps_per_epoch, self.config.save_interval_steps)
        return any(interval is not None and step % interval == 0 for interval in intervals)

    def save(self, state: TrainState, frozen: Params, progress: Progress, *, improved: bool, ending: bool) -> None:
        """Write what is due after `progress.step` steps.

        Args:
            improved: the validation loss is the best so far, so that the best model is due.
            ending: no step follows, so that the last model and the state are due.
        """
        if improved and self.config.save_best:
            self._save_model(self.run.best, state, frozen)
        if ending or self.due(progress.step):
            # The state is written last: once it exists, the models that belong to it do too.
            self._save_model(self.run.last, state, frozen)
            metadata = {"progress": progress.to_dict(), "identity": self.identity}
            self._checkpointer.save(progress.step, _to_tree(state), metadata)

    def _save_model(self, directory: Path, state: TrainState, frozen: Params) -> None:
        self.task.save(directory, frozen | state.trainable)

    @cached_property
    def _checkpointer(self) -> TrainCheckpointer:
        return self.run.checkpointer(self.config.keep_last_n)


def _to_tree(state: TrainState) -> dict[str, Any]:
    """The state under the names that saved runs have always had."""
    return {"params": state.trainable, "optimizer": state.optimizer, "loss_scale": state.loss_scale}
