"""One stored model into another form, tensor by tensor."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from llm_jax.checkpoint.directory import Layout, write_directory
from llm_jax.checkpoint.gguf import write_gguf
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.weight_files import MAX_SHARD_BYTES
from llm_jax.errors import CheckpointError

GGUF = ".gguf"
# What --dtype may say -> what safetensors store, GGUF's name, bytes per value.
FORMATS: dict[str, tuple[np.dtype | None, str, float]] = {
    "float32": (np.dtype(np.float32), "f32", 4),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "bf16", 2),
    "float16": (np.dtype(np.float16), "f16", 2),
    "q8_0": (None, "q8_0", 34 / 32),  # 32 bytes and a half-precision scale
}


def convert(
    stored: StoredModel,
    destination: Path,
    *,
    layout: Layout = "transformers",
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a stored model as a GGUF file, where the name ends in .gguf, or as a model directory.

    One tensor at a time is in memory. What is at `destination` is replaced when the new one is complete.

    Args:
        layout: of a model directory, as `write_directory` takes it.
        dtype: float32, bfloat16, float16, or q8_0 (GGUF alone); as stored unless given.
        written: told of each tensor that is done, by its bytes before a change of dtype.

    Raises:
        CheckpointError: the form cannot express this model, or the disk has no room for it.
    """
    name = dtype or stored_dtype(stored)
    kept, gguf_type, bytes_per_value = FORMATS[name]
    is_gguf = destination.suffix == GGUF
    if kept is None and not is_gguf:
        raise CheckpointError(f"{name} is a type of GGUF files; let the destination end in {GGUF}, or choose another.")
    size = int(bytes_per_value * sum(tensor.size for tensor in stored.params.values()))
    _check_room(destination, size)
    target = replace(stored, path=destination)
    if is_gguf:
        write_gguf(target, type_name=gguf_type, written=written)
    else:
        cast = kept if dtype or name != _widest(stored) else None
        write_directory(target, layout=layout, dtype=cast, max_shard_bytes=max_shard_bytes, written=written)


def stored_dtype(stored: StoredModel) -> str:
    """The name of what the weights are stored as, as far as it can be written; float64 becomes float32."""
    widest = _widest(stored)
    return widest if widest in FORMATS else "float32"


def _widest(stored: StoredModel) -> str:
    return str(stored.params["embedding_layer.token_embeddings.weight"].dtype)


def _check_room(destination: Path, size: int) -> None:
    existing = next(path for path in destination.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise CheckpointError(
            f"{existing} has {free / 2**30:.1f} GiB free, and the converted model takes {size / 2**30:.1f} GiB beside "
            "whatever it replaces. Make room, choose another place, or a smaller --dtype."
        )
