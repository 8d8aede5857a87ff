"""Open the weights of a model: one file, or shards with an index."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from llm_jax.checkpoint.formats.safetensors import open_safetensors
from llm_jax.checkpoint.formats.torch import read_torch_file
from llm_jax.checkpoint.recognise import Source
from llm_jax.errors import CheckpointError

READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "safetensors": open_safetensors,
    "torch": read_torch_file,
}


def open_weights(source: Source) -> dict[str, np.ndarray]:
    """The tensors of a source in safetensors or torch files, as views of the mapped files.

    Raises CheckpointError when they are damaged, or a shard is missing.
    """
    reader = READERS[source.format]
    return _open_shards(source.weights, reader) if source.is_sharded else reader(source.weights)


def _open_shards(index: Path, open_file: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        shard_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        paths = {shard: _shard_path(index, shard) for shard in set(shard_of.values())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: it needs a weight_map of names to files.") from error
    shards = {shard: open_file(path) for shard, path in paths.items()}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{paths[shard]} does not hold {name}, which {index.name} says it does.")
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _shard_path(index: Path, shard: str) -> Path:
    """The path of a shard, which must be a plain file name: an index must not reach files outside its directory."""
    if shard != PurePosixPath(shard).name or "\\" in shard or shard in ("", ".."):
        raise CheckpointError(f"{index} names {shard!r}, which lies outside its directory. It was refused.")
    return index.parent / shard
