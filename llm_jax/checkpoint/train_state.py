"""The states of a training run on disk. The only module that imports orbax."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from llm_jax.atomic import replace_directory
from llm_jax.checkpoint.digest import digests
from llm_jax.checkpoint.manifest import MANIFEST, read_manifest, write_manifest
from llm_jax.errors import CheckpointError, DamagedCheckpoint, TrainingError
from llm_jax.parallel import is_first, text_of_first, wait_for_all

ARRAYS = "arrays"


class TrainCheckpointer:
    """Numbered steps in a directory, each a pytree of arrays with a JSON object beside it.

    A step is written under a temporary name, `.7`, and renamed to `7` when it is complete, so that a killed process
    leaves complete steps only. Its manifest holds the digests of its arrays and files, which are compared when it is
    restored: orbax has no checksum of its own there. Leaves are stored under their paths in the tree, so that files do
    not depend on its classes.

    With several processes each calls every method, and all see one directory: each writes its shards of the arrays, and
    the first writes everything else.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    def steps(self) -> list[int]:
        """The numbers of the saved steps, damaged ones included, in ascending order."""
        entries = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(path.name) for path in entries if path.name.isdecimal())

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> "PendingStep":
        """Begin to write a step; the arrays may be donated once this returns.

        Raises:
            TrainingError: an array holds NaN or infinity; nothing is written.
        """
        import orbax.checkpoint as ocp

        arrays = _by_path(tree)
        found, unbounded = digests(arrays)
        if unbounded:
            raise TrainingError(
                f"The state after step {step} is not finite ({', '.join(unbounded[:3])}), so it is not saved."
            )
        temporary = self._temporary(step)
        if is_first():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        wait_for_all(f"step {step}")
        described = {
            path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "digest": found[path]}
            for path, leaf in arrays.items()
        }
        pending = PendingStep(self, step, {"metadata": dict(metadata), "arrays": described})
        try:
            self._orbax.save(temporary / ARRAYS, args=ocp.args.StandardSave(arrays))
        except Exception:
            pending.discard()
            raise
        return pending

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON object of a step, without its arrays.

        Raises:
            CheckpointError: there is no such step.
            DamagedCheckpoint: one of its files is missing, or is not what was written.
        """
        metadata: dict[str, Any] = self._manifest(step)["metadata"]
        return metadata

    def unverified_metadata(self, step: int) -> dict[str, Any]:
        """The JSON object of a step, {} where it cannot be read; no file is compared with its digest."""
        try:
            return dict(json.loads((self.path(step) / MANIFEST).read_bytes())["metadata"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def restore(self, step: int, like: Any) -> Any:
        """The tree of a step.

        Args:
            like: a tree of arrays or ShapeDtypeStructs; the result has its structure, dtypes and shardings, whatever
                the shardings were when it was saved.

        Raises:
            CheckpointError: there is no such step, or its leaves are not those of `like`.
            DamagedCheckpoint: one of its files is missing, or something in it is not what was written.
        """
        import orbax.checkpoint as ocp

        stored = self._manifest(step)["arrays"]
        expected = {path: _spec(leaf) for path, leaf in _by_path(like).items()}
        self._check(step, expected, stored)
        with self._damage_reported(step):
            leaves = ocp.StandardCheckpointer().restore(self.path(step) / ARRAYS, expected)
        for path, digest in digests(leaves)[0].items():
            if digest != stored[path]["digest"]:
                raise self._damaged(step, f"the values of {path} are not those that were saved")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in expected])

    def remove(self, step: int) -> None:
        """Remove a step, which ends to be complete before its first file goes."""
        if is_first():
            temporary = self._temporary(step)
            shutil.rmtree(temporary, ignore_errors=True)
            self.path(step).rename(temporary)
            shutil.rmtree(temporary)

    def sweep(self) -> None:
        """Remove what killed processes have left half-written or half-removed."""
        if is_first() and self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name.startswith(".") and path.name[1:].isdecimal():
                    shutil.rmtree(path, ignore_errors=True)

    def path(self, step: int) -> Path:
        return self.directory / str(step)

    def _temporary(self, step: int) -> Path:
        return self.directory / f".{step}"

    @cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp

        # It logs the tracebacks of errors that it raises too.
        logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
        return ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def _manifest(self, step: int) -> dict[str, Any]:
        if not self.path(step).is_dir():
            raise CheckpointError(f"There is no step {step} in {self.directory}.")
        manifest, damage = dict[str, Any](), ""
        if is_first():  # which reads every file
            try:
                with self._damage_reported(step):
                    manifest = read_manifest(self.path(step))
            except DamagedCheckpoint as error:
                damage = str(error)
        if damage := text_of_first(damage):
            raise DamagedCheckpoint(damage)
        return manifest or dict(json.loads((self.path(step) / MANIFEST).read_bytes()))

    def _check(self, step: int, expected: Mapping[str, jax.ShapeDtypeStruct], stored: Mapping[str, Any]) -> None:
        shapes = {path: tuple(leaf["shape"]) for path, leaf in stored.items()}
        complaints = [f"lacks {path}" for path in expected if path not in shapes]
        complaints += [f"has {path}, which is not asked for" for path in shapes if path not in expected]
        complaints += [
            f"has {path} of shape {list(shapes[path])} instead of {list(spec.shape)}"
            for path, spec in expected.items()
            if path in shapes and shapes[path] != spec.shape
        ]
        complaints += [
            f"has {path} in {stored[path]['dtype']} instead of {spec.dtype}"
            for path, spec in expected.items()
            if path in shapes and stored[path]["dtype"] != str(spec.dtype)
        ]
        if complaints:
            raise CheckpointError(f"Step {step} in {self.directory} is of another run: it {'; it '.join(complaints)}.")

    def _damaged(self, step: int, what: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"Step {step} in {self.directory} is damaged: {what}.")

    @contextmanager
    def _damage_reported(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax, tensorstore, zstd and json each raise their own
            raise self._damaged(step, (str(error) or repr(error)).splitlines()[0].rstrip(".")) from error


@dataclass(frozen=True)
class PendingStep:
    """A step whose arrays are being written."""

    checkpointer: TrainCheckpointer
    step: int
    contents: dict[str, Any]

    def commit(self) -> None:
        """Wait for the arrays, write the manifest, and give the step its name, in place of an earlier one."""
        self.checkpointer._orbax.wait_until_finished()
        if is_first():
            temporary = self.checkpointer._temporary(self.step)
            write_manifest(temporary, self.contents)
            replace_directory(temporary, self.checkpointer.path(self.step))

    def discard(self) -> None:
        """Remove what has been written, to give its room back."""
        with suppress(Exception):  # what went wrong is why it is discarded
            self.checkpointer._orbax.wait_until_finished()
        if is_first():
            shutil.rmtree(self.checkpointer._temporary(self.step), ignore_errors=True)


def _by_path(tree: Any) -> dict[str, Any]:
    """path -> leaf, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
