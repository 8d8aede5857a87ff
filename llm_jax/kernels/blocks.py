"""Matrices in blocks of few bits, as GGUF files have them: where they lie, and as the kernels want them.

A row is a sequence of blocks of 32 or 256 values, which share scales. Packing moves the same bits (see
cpu/src/blocks.h), and no value passes through float32. A product rounds each 32 inputs of x to 255 levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from llm_jax.native import Level

Format = Literal["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


class Layout(NamedTuple):
    """A block: so many values in so many bytes."""

    values: int
    bytes: int


FORMATS: dict[Format, Layout] = {  # numbered as in cpu/src/blocks.h
    "Q4_0": Layout(32, 18),
    "Q4_1": Layout(32, 20),
    "Q5_0": Layout(32, 22),
    "Q5_1": Layout(32, 24),
    "Q8_0": Layout(32, 34),
    "Q4_K": Layout(256, 144),
    "Q5_K": Layout(256, 176),
    "Q6_K": Layout(256, 210),
}
PANEL = 16  # outputs that are packed together


class BlockRows(NamedTuple):
    """Consecutive rows in one format: uint8 [O, bytes of a row]."""

    format: Format
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class QuantisedMatrix:
    """A matrix in blocks where it lies, before it is packed; as an array, its values.

    Attributes:
        read: its values, in float32.
        parts: its rows, called where they are packed.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    parts: Callable[[], Sequence[BlockRows]]
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().astype(self.dtype if dtype is None else dtype, copy=False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockMatrix:
    """A linear map, or an embedding table, in blocks. Build it with `pack_blocks`.

    Attributes:
        tiles: uint8 [bytes], laid out as in cpu/src/blocks.h, one part after the other, from `start` on: small matrices
            may be in one array (`join`).
        formats, outputs: of each part: consecutive outputs. A gated map has two of the same number of outputs.
        shape: (O, I) of the map.
        gated: y = act(x Wᵀ) · (x Vᵀ), two parts in one.
    """

    tiles: Array
    formats: tuple[Format, ...] = field(metadata={"static": True})
    outputs: tuple[int, ...] = field(metadata={"static": True})
    level: Level = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})
    gated: bool = field(default=False, metadata={"static": True})
    start: int = field(default=0, metadata={"static": True})

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return np.dtype(np.float32)
