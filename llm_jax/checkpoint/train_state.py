"""The state of a training run on disk. The only module that imports orbax."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from llm_jax.errors import CheckpointError

TREE, METADATA = "state", "metadata"


class TrainCheckpointer:
    """Numbered steps in a directory, each a pytree of arrays with a JSON object beside it.

    A step is written under a temporary name and renamed when it is complete, so that a killed process leaves only
    complete steps. Leaves are stored under their paths in the tree, so that files do not depend on its classes.
    """

    def __init__(self, directory: str | Path, keep_last_n: int = 5) -> None:
        """Args: keep_last_n: older steps are removed once a newer one is complete."""
        self.directory = Path(directory).absolute()
        self.keep_last_n = keep_last_n

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Returns when the step is on the disk. An existing step is left unchanged."""
        import orbax.checkpoint as ocp

        if self.directory.is_dir() and step in self._manager.all_steps():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        items = ocp.args.Composite(
            **{TREE: ocp.args.StandardSave(_by_path(tree)), METADATA: ocp.args.JsonSave(dict(metadata))}
        )
        self._manager.save(step, args=items, force=True)

    def latest_step(self) -> int | None:
        """The newest complete step, None where there is none."""
        return self._manager.latest_step() if self.directory.is_dir() else None

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON object of a step, without its arrays. Raises CheckpointError when it cannot be read."""
        import orbax.checkpoint as ocp

        return self._restore(step, METADATA, ocp.args.JsonRestore())

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(tree, metadata) of a step.

        Args:
            like: a tree of arrays or ShapeDtypeStructs; the result has its structure, dtypes and shardings.

        Raises:
            CheckpointError: the step is missing or damaged, or its leaves are not those of `like`.
        """
        import orbax.checkpoint as ocp

        metadata = self.metadata(step)
        expected = {path: _spec(leaf) for path, leaf in _by_path(like).items()}
        self._check(step, expected)
        leaves = self._restore(step, TREE, ocp.args.StandardRestore(expected))
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in expected]), metadata

    @cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep_last_n, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        handlers = {TREE: ocp.StandardCheckpointHandler(), METADATA: ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def _restore(self, step: int, item: str, how: Any) -> Any:
        import orbax.checkpoint as ocp

        if not self.directory.is_dir() or step not in self._manager.all_steps():
            raise CheckpointError(f"There is no complete step {step} in {self.directory}.")
        with self._damage_as_checkpoint_error(step):
            return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]

    def _check(self, step: int, expected: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        """Compares names and shapes before reading, because orbax reports a mismatch from inside its threads."""
        with self._damage_as_checkpoint_error(step):
            stored = self._manager.item_metadata(step)[TREE]
        shapes = {path: tuple(leaf.shape) for path, leaf in stored.tree.items()}
        complaints = [f"lacks {path}" for path in expected if path not in shapes]
        complaints += [f"has {path}, which is not asked for" for path in shapes if path not in expected]
        complaints += [
            f"has {path} of shape {list(shapes[path])} instead of {list(spec.shape)}"
            for path, spec in expected.items()
            if path in shapes and shapes[path] != spec.shape
        ]
        if complaints:
            raise CheckpointError(f"Step {step} in {self.directory} is of another run: it {'; it '.join(complaints)}.")

    @contextmanager
    def _damage_as_checkpoint_error(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax, tensorstore, zstd and json each raise their own
            raise CheckpointError(
                f"Step {step} in {self.directory} is damaged: {str(error).splitlines()[0]} "
                "Remove that step to go on from the one before it."
            ) from error


def _by_path(tree: Any) -> dict[str, Any]:
    """path -> leaf, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
