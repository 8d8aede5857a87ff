"""Safetensors on disk: one file, or shards with an index. Read lazily, one tensor at a time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llm_jax.checkpoint.torch_file import read_torch_file
from llm_jax.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_FILES = ("pytorch_model.bin", "pytorch_model.pt", "model.pt", "model.pth")
MAX_SHARD_BYTES = 4 * 2**30


class SafetensorsFiles(Mapping[str, np.ndarray]):
    """The tensors of some safetensors files as a mapping that reads a tensor when it is asked for.

    Raises CheckpointError when a file is missing, cut short or damaged, or lacks what the index promises.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Args: files: tensor name -> the file that holds it."""
        self._file_of = dict(files)
        self._open = {path: _open(path) for path in set(files.values())}
        for name, path in files.items():
            if name not in self._open[path].keys():  # noqa: SIM118 (safe_open is no mapping)
                raise CheckpointError(f"{path} does not hold {name}, which the index says it does.")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._open[self._file_of[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def open_weights(directory: Path) -> Mapping[str, np.ndarray]:
    """Whatever weights a model directory holds: model.safetensors, its shards, or a torch file.

    Raises CheckpointError when there are none or they are damaged.
    """
    if (directory / SINGLE).is_file():
        return open_safetensors(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _open_shards(directory)
    for name in TORCH_FILES:
        if (directory / name).is_file():
            return read_torch_file(directory / name)
    raise CheckpointError(f"{directory} holds no weights: expected {SINGLE}, {INDEX} or {TORCH_FILES[0]}.")


def open_safetensors(path: Path) -> SafetensorsFiles:
    """One safetensors file as a lazy mapping."""
    return SafetensorsFiles(dict.fromkeys(_open(path).keys(), path))


def _open_shards(directory: Path) -> SafetensorsFiles:
    index = directory / INDEX
    try:
        shard_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        shards = {shard: _inside(directory, shard) for shard in set(shard_of.values())}
        return SafetensorsFiles({name: shards[shard] for name, shard in shard_of.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: it needs a weight_map of names to files.") from error


def _inside(directory: Path, shard: str) -> Path:
    """The shard's path, which must be a plain file name: an index is data, and must not name other people's files."""
    if shard != PurePosixPath(shard).name or "\\" in shard or shard in ("", ".."):
        raise CheckpointError(f"{directory / INDEX} names {shard!r}, which lies outside its directory. It was refused.")
    return directory / shard


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}. Copy or download it again.") from error


def write_safetensors(
    directory: Path, tensors: Mapping[str, np.ndarray], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write the tensors as model.safetensors, or as numbered shards with an index when they exceed a shard."""
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        _save(directory / SINGLE, tensors, shards[0])
        return
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(directory / file, tensors, names)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(tensors[name].nbytes for name in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _split(tensors: Mapping[str, np.ndarray], max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut wherever the next tensor would exceed the limit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in tensors:
        size = tensors[name].nbytes
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _save(path: Path, tensors: Mapping[str, np.ndarray], names: list[str]) -> None:
    # safetensors writes the raw buffer, so a transposed view has to be laid out in rows first. transformers opens
    # only files whose metadata names the framework.
    save_file({name: np.asarray(tensors[name], order="C") for name in names}, path, metadata={"format": "pt"})
