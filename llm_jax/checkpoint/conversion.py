"""Convert a stored model to another format, tensor by tensor."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from llm_jax.checkpoint.directory import Layout, write_directory
from llm_jax.checkpoint.formats import MAX_SHARD_BYTES, write_gguf
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.errors import CheckpointError

GGUF_SUFFIX = ".gguf"
# A value of --dtype -> dtype in safetensors, name in GGUF, bytes per value.
DTYPES: dict[str, tuple[np.dtype | None, str, float]] = {
    "float32": (np.dtype(np.float32), "f32", 4),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "bf16", 2),
    "float16": (np.dtype(np.float16), "f16", 2),
    "q8_0": (None, "q8_0", 34 / 32),  # 32 bytes and a half-precision scale
    "q6_k": (None, "q6_k", 210 / 256),
    "q4_k_m": (None, "q4_k_m", 0.62),  # about: some matrices are q6_k
    "q4_0": (None, "q4_0", 0.6),  # likewise the head
}


def convert(
    stored: StoredModel,
    destination: Path,
    *,
    layout: Layout = "transformers",
    dtype: str | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a stored model as a GGUF file, where the name ends in .gguf, or as a model directory.

    One tensor at a time is in memory. An older model at `destination` is replaced once the new one is complete.

    Args:
        layout: of a model directory, as `write_directory` takes it.
        dtype: float32, bfloat16, float16, or for GGUF q8_0, q6_k, q4_k_m or q4_0; unless given, weights keep their own.
        importance: where a quantised file must be most exact, see `llm_jax.evaluation.input_importance`.
        written: called with the bytes of each tensor, in its own dtype, once it is written.

    Raises:
        CheckpointError: the format cannot express this model, or the disk has too little free space for it.
    """
    name = dtype or stored_dtype(stored)
    target_dtype, gguf_type, bytes_per_value = DTYPES[name]
    is_gguf = destination.suffix == GGUF_SUFFIX
    if target_dtype is None and not is_gguf:
        raise CheckpointError(f"{name} is a type of GGUF files; let the destination end in .gguf, or choose another.")
    size = int(bytes_per_value * sum(tensor.size for tensor in stored.params.values()))
    _check_free_space(destination, size)
    target = replace(stored, path=destination)
    if is_gguf:
        write_gguf(target, kind=gguf_type, importance=importance, written=written)
    else:
        cast = target_dtype if dtype or name != _dtype_of_embedding(stored) else None
        write_directory(target, layout=layout, dtype=cast, max_shard_bytes=max_shard_bytes, written=written)


def stored_dtype(stored: StoredModel) -> str:
    """The dtype of the weights as a value of --dtype; float64, which cannot be written, becomes float32."""
    dtype = _dtype_of_embedding(stored)
    return dtype if dtype in DTYPES else "float32"


def _dtype_of_embedding(stored: StoredModel) -> str:
    return str(stored.params["embedding_layer.token_embeddings.weight"].dtype)


def _check_free_space(destination: Path, size: int) -> None:
    existing = next(path for path in destination.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise CheckpointError(
            f"{existing} has {free / 2**30:.1f} GiB free, and the converted model takes {size / 2**30:.1f} GiB beside "
            "the one it replaces. Free some space, choose another destination, or a smaller --dtype."
        )
