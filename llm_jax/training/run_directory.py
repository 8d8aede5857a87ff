"""The files of a run, who may write them, and which run a configuration resumes."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_jax.atomic import sweep
from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.parallel import is_first
from llm_jax.training.config import CheckpointConfig


@dataclass(frozen=True)
class RunDirectory:
    """`best` and `last` (model directories), `state` (to resume from), config.yaml, versions.json, the metrics."""

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
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def plot(self) -> Path:
        return self.path / "loss.png"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    def checkpointer(self) -> TrainCheckpointer:
        return TrainCheckpointer(self.state)

    def exists(self) -> bool:
        """True where a run was saved here."""
        return bool(self.checkpointer().steps())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only this run may write here until the block ends: its first process has the lock.

        The system releases the lock of a killed process. What killed runs have left half-written is removed.

        Raises:
            ConfigError: another run has the directory, or it is no directory.
        """
        if not is_first():
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                f"checkpoint.checkpoint_dir is {self.path}, which is a file or lies below one. Name a directory."
            ) from error
        with (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ConfigError(
                    f"Another run ({file.read().strip() or 'unknown'}) is writing to {self.path}. "
                    "Wait for its end, stop it, or name another checkpoint_dir."
                ) from None
            with contextlib.suppress(OSError):  # a full disk is reported where more than this line is written
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            self.checkpointer().sweep()
            for target in (self.best, self.last, self.config, self.metrics, self.plot):
                sweep(target)
            yield

    def clear(self) -> None:
        """Remove an earlier run; other files in the directory stay."""
        for directory in (self.state, self.best, self.last, self.profile):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.metrics, self.plot, self.config, self.versions):
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
