"""The files of a run, and how one is saved and continued."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.training.config import CheckpointConfig
from llm_jax.training.progress import Progress
from llm_jax.training.step import TrainState


@dataclass(frozen=True)
class RunDirectory:
    """`best` and `last` (model directories), `state` (to continue from), config.yaml, metrics.jsonl, loss.png."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def last(self) -> Path:
        return self.path / "last"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def plot(self) -> Path:
        return self.path / "loss.png"

    def checkpointer(self, keep_last_n: int = 1) -> TrainCheckpointer:
        return TrainCheckpointer(self.state, keep_last_n)

    def holds_a_run(self) -> bool:
        return self.state.is_dir() and self.checkpointer().latest_step() is not None

    def clear(self) -> None:
        """Remove an earlier run; whatever else lies in the directory stays."""
        for directory in (self.state, self.best, self.last):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.metrics, self.plot, self.config):
            file.unlink(missing_ok=True)

    def adopt(self, other: "RunDirectory") -> None:
        """Take over what a run has recorded elsewhere, to continue it here."""
        if other.path.resolve() == self.path.resolve():
            return
        self.clear()
        self.path.mkdir(parents=True, exist_ok=True)
        for directory in ("best", "last"):
            if (other.path / directory).is_dir():
                shutil.copytree(other.path / directory, self.path / directory)
        if other.metrics.exists():
            shutil.copy(other.metrics, self.metrics)


def run_to_resume(config: CheckpointConfig) -> RunDirectory | None:
    """The run that a configuration continues, None for a fresh start.

    Raises:
        CheckpointError: a path is named, but no run was saved there.
    """
    wish = config.resume_from_checkpoint
    if wish is None:
        return None
    if wish == "auto":
        run = RunDirectory(Path(config.checkpoint_dir))
        return run if run.holds_a_run() else None
    path = Path(wish)
    run = RunDirectory(path.parent if path.name == "state" else path)
    if not run.holds_a_run():
        raise CheckpointError(f"{wish}: no saved run to resume. Name the checkpoint_dir of an earlier run, or auto.")
    return run


def save_state(
    checkpointer: TrainCheckpointer, state: TrainState, progress: Progress, identity: dict[str, Any]
) -> None:
    """Everything that continuing bit for bit needs; `identity` is what the continuation must agree with."""
    checkpointer.save(progress.step, state._asdict(), {"progress": progress.to_dict(), "identity": identity})


def restore_state(run: RunDirectory, like: TrainState, identity: dict[str, Any]) -> tuple[TrainState, Progress]:
    """The latest saved state of a run.

    Args:
        like: a state with the shapes to expect.

    Raises:
        ConfigError: the run was made with another architecture, or another number of steps per epoch.
        CheckpointError: the saved state is damaged.
    """
    checkpointer = run.checkpointer()
    step = checkpointer.latest_step()
    assert step is not None  # holds_a_run
    metadata = checkpointer.metadata(step)
    for name, value in identity.items():
        saved = metadata["identity"].get(name)
        if saved != value:
            raise ConfigError(
                f"The run in {run.path} was made with {name} = {saved!r}, and now it is {value!r}. "
                "Resume with the configuration of that run, or start a new one in another checkpoint_dir."
            )
    tree, metadata = checkpointer.restore(step, like._asdict())
    return TrainState(**tree), Progress.from_dict(metadata["progress"])
