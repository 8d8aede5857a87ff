"""The files of a run, and which run a configuration resumes."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import CheckpointError
from llm_jax.training.config import CheckpointConfig


@dataclass(frozen=True)
class RunDirectory:
    """`best` and `last` (model directories), `state` (to resume from), config.yaml, metrics.jsonl, loss.png."""

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

    def exists(self) -> bool:
        """True where a run was saved here."""
        return self.state.is_dir() and self.checkpointer().latest_step() is not None

    def clear(self) -> None:
        """Remove an earlier run; other files in the directory stay."""
        for directory in (self.state, self.best, self.last):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.metrics, self.plot, self.config):
            file.unlink(missing_ok=True)

    def adopt(self, other: "RunDirectory") -> None:
        """Copy the models and metrics of a run from another directory, to continue it here."""
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
    """The run that a configuration resumes, None for a fresh start.

    Raises:
        CheckpointError: a path is named, but no run was saved there.
    """
    name = config.resume_from_checkpoint
    if name is None:
        return None
    if name == "auto":
        run = RunDirectory(Path(config.checkpoint_dir))
        return run if run.exists() else None
    path = Path(name)
    run = RunDirectory(path.parent if path.name == "state" else path)
    if not run.exists():
        raise CheckpointError(f"{name}: no saved run to resume. Name the checkpoint_dir of an earlier run, or auto.")
    return run
