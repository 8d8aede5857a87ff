"""Read and write safetensors, one tensor at a time: one file, or shards with an index."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from llm_jax.checkpoint.recognise import SAFETENSORS, SAFETENSORS_INDEX
from llm_jax.checkpoint.tensors import Tensor, blocks_of_rows
from llm_jax.errors import CheckpointError
from llm_jax.memory import map_file

MAX_SHARD_BYTES = 4 * 2**30
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one file as read-only views of the mapped file; only the header is read.

    Raises CheckpointError when it is missing, damaged or cut short.
    """
    try:
        with safe_open(path, framework="numpy"):  # the library checks the header, and the file's length against it
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        data = np.frombuffer(map_file(path), np.uint8)[8 + length :]
        header.pop("__metadata__", None)
        return {name: _view(data, **entry) for name, entry in header.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}. Copy or download it again.") from error
    except KeyError as error:
        raise CheckpointError(f"{path} holds tensors of the type {error}; {', '.join(DTYPES)} can be read.") from None


def _view(data: np.ndarray, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> np.ndarray:
    start, end = data_offsets
    return data[start:end].view(np.ndarray).view(DTYPES[dtype]).reshape(shape)


def write_safetensors(
    directory: Path,
    tensors: Mapping[str, Tensor],
    *,
    file: str = SAFETENSORS,
    dtype: np.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the tensors as model.safetensors, or as numbered shards with an index when they exceed a shard.

    One tensor at a time is in memory.

    Args:
        file: the name of a file that is not cut into shards.
        dtype: to cast to; unless given, tensors are stored in their own.
        written: called with the bytes of each tensor, in its own dtype, once it is written.
    """
    sizes = {name: t.size * (dtype or t.dtype).itemsize for name, t in tensors.items()}
    shards = _split(sizes, max_shard_bytes)
    if len(shards) == 1:
        _write(directory / file, tensors, dtype, written)
        return
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        shard = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(directory / shard, {name: tensors[name] for name in names}, dtype, written)
        weight_map.update(dict.fromkeys(names, shard))
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (directory / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _split(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """The names of each shard: in order, with a new shard where the next tensor would exceed the limit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write(path: Path, tensors: Mapping[str, Tensor], dtype: np.dtype | None, written: Callable[[int], None]) -> None:
    """Write one file: a header and the bytes of the tensors. (The library's own writer needs all tensors in memory.)

    transformers opens only files whose metadata names the framework.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Widest type first, so that every tensor is aligned in the file.
    order = sorted(tensors, key=lambda name: -(dtype or tensors[name].dtype).itemsize)
    for name in order:
        stored, start = dtype or tensors[name].dtype, end
        end += tensors[name].size * stored.itemsize
        header[name] = {"dtype": DTYPE_NAMES[stored], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            for block in blocks_of_rows(tensors[name], dtype):
                file.write(block.reshape(-1).view(np.uint8).data)
            written(tensors[name].nbytes)
