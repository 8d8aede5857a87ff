"""Which type each tensor of a quantised GGUF file gets, and its bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import ml_dtypes
import numpy as np

from llm_jax.checkpoint.formats.gguf.types import TYPES
from llm_jax.checkpoint.tensors import LazyTensor, Tensor, blocks_of_rows
from llm_jax.kernels import FORMATS, Format, quantise

# The dtype of tensors that are not in blocks.
DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
ALWAYS_FLOAT32 = ("ffn_gate_inp.", "position_embd.")  # llama.cpp needs these, and all vectors, in float32
KINDS = ("q4_0", "q4_k_m", "q6_k", "q8_0")  # of quantised files
# What stands in for a type whose blocks are longer than a row divides into.
SHORTER = {"q4_k": "q5_0", "q6_k": "q8_0"}
SIZES = {type_.name.lower(): (type_.values, type_.bytes) for type_ in TYPES.values()}


def type_of(name: str, tensor: Tensor, kind: str, layers: int, *, is_tied: bool) -> str:
    """The type of a tensor in a file of that kind, as llama.cpp mixes them.

    q4_k_m has more bits for what errors count most in: values and the second feed-forward matrix of some layers. The
    head, and a table that is the head too, have six in every file of four.
    """
    if len(tensor.shape) == 1 or name.endswith(".bias") or any(part in name for part in ALWAYS_FLOAT32):
        return "f32"
    if kind in DTYPES:
        return kind
    type_ = "q4_k" if kind == "q4_k_m" else kind
    if (kind in ("q4_0", "q4_k_m") and name == ("token_embd.weight" if is_tied else "output.weight")) or (
        kind == "q4_k_m" and "attn_qkv." in name
    ):
        type_ = "q6_k"
    elif kind == "q4_k_m" and ("attn_v." in name or "ffn_down" in name):
        type_ = "q6_k" if _has_more_bits(int(name.split(".")[1]), layers) else type_
    for _ in range(2):
        if tensor.shape[-1] % SIZES[type_][0]:
            type_ = SHORTER.get(type_, "f16")
    return type_


def _has_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def has_q8_0_scales(tensor: Tensor) -> bool:
    """Whether the scale of every block of q8_0, in half precision, is off by less than half a step of its values."""
    for rows in blocks_of_rows(tensor, np.dtype(np.float32)):
        scale = np.abs(rows.reshape(-1, SIZES["q8_0"][0])).max(-1) / 127
        with np.errstate(over="ignore"):
            error = np.abs(scale.astype(np.float16).astype(np.float32) - scale)
        if (error * 254 > scale).any():
            return False
    return True


@dataclass(frozen=True)
class Encoded:
    """A tensor in the type of the file, with the two attributes that the library needs to write it.

    Attributes:
        importance_I: what the squared error of each input's weights counts; None where nothing is known.
    """

    tensor: Tensor
    type_name: str
    importance_I: np.ndarray | None = None

    @cached_property
    def nbytes(self) -> int:
        values, size = SIZES[self.type_name]
        return self.tensor.size // values * size

    def tofile(self, file: BinaryIO) -> None:
        if self.type_name in DTYPES:
            for block in blocks_of_rows(self.tensor, DTYPES[self.type_name]):
                file.write(block.view(np.uint8).data)
            return
        format: Format = next(format for format in FORMATS if format.lower() == self.type_name)
        stored = self.tensor.quantised if isinstance(self.tensor, LazyTensor) else None
        if stored is not None and (rows := stored()).format == format:
            file.write(np.ascontiguousarray(rows.rows).data)
            return
        for block in blocks_of_rows(self.tensor, np.dtype(np.float32)):
            whole = block.reshape(-1, block.shape[-1])
            file.write(quantise(whole, format, self.importance_I).rows.data)


def importances(stored: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Of the tensors of a file, that have an importance in every row, those where it is known."""
    first = {name: np.asarray(tensor).reshape(-1, tensor.shape[-1])[0] for name, tensor in stored.items()}
    return {name: row for name, row in first.items() if np.isfinite(row).all()}
