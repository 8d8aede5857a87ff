"""Lazy tensors: views of a mapped file, and arrays that are computed from them when they are read.

A large model is converted one tensor at a time. A cut or a transposition of a mapped array is a view; anything that
copies or computes is a LazyTensor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from llm_jax.kernels import BlockRows, QuantisedMatrix

Shape = tuple[int, ...]
BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """An array that `read` computes at each use; numpy.asarray calls it.

    Attributes:
        parts: of a concatenation, its blocks of rows; `cut` at their borders returns them unread.
        quantised: of a matrix in blocks of few bits, its rows as they are stored.
    """

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    parts: tuple["Tensor", ...] = ()
    quantised: Callable[[], BlockRows] | None = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().astype(self.dtype if dtype is None else dtype, copy=False)


Tensor = np.ndarray | LazyTensor


def blocks_of_rows(tensor: Tensor, dtype: np.dtype | None = None) -> Iterator[np.ndarray]:
    """The tensor in contiguous arrays [rows, …] of about BLOCK_BYTES, so that a cast never needs a second whole copy.

    Args:
        dtype: to cast to; unless given, the tensor's own.
    """
    whole = np.atleast_1d(np.asarray(tensor))
    rows = max(1, BLOCK_BYTES * len(whole) // max(whole.nbytes, 1))
    for start in range(0, len(whole), rows):
        yield np.ascontiguousarray(whole[start : start + rows], dtype)


def mapped(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    """The tensor with a function of the same shape and dtype applied when it is read."""
    return LazyTensor(tensor.shape, tensor.dtype, lambda: change(np.asarray(tensor)))


def permuted(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    """The tensor with its rows in another order; one in blocks stays in blocks."""
    stored = tensor.quantised if isinstance(tensor, LazyTensor) else None
    if stored is None:
        return mapped(tensor, change)
    return replace(
        mapped(tensor, change), quantised=lambda: stored()._replace(rows=np.ascontiguousarray(change(stored().rows)))
    )


def as_stored(tensor: Tensor) -> np.ndarray | QuantisedMatrix:
    """What an engine packs: a matrix whose rows are all in blocks as such, anything else as an array."""
    parts = tensor.parts or (tensor,) if isinstance(tensor, LazyTensor) else ()
    stored = [part.quantised if isinstance(part, LazyTensor) else None for part in parts]
    if not stored or None in stored or len(tensor.shape) != 2:
        return np.asarray(tensor)
    return QuantisedMatrix(
        tensor.shape, lambda: np.asarray(tensor), lambda: [rows() for rows in stored if rows is not None]
    )


def reshaped(tensor: Tensor, shape: Shape) -> Tensor:
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(shape)
    return LazyTensor(shape, tensor.dtype, lambda: np.asarray(tensor).reshape(shape))


def transposed(tensor: Tensor) -> Tensor:
    if isinstance(tensor, np.ndarray):
        return tensor.T
    return LazyTensor(tensor.shape[::-1], tensor.dtype, lambda: np.asarray(tensor).T)


def join(parts: Sequence[Tensor]) -> Tensor:
    """The concatenation of the parts along their rows."""
    if len(parts) == 1:
        return parts[0]
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    dtype = np.result_type(*(part.dtype for part in parts))
    return LazyTensor(shape, dtype, lambda: np.concatenate([np.asarray(part) for part in parts]), tuple(parts))


def stack(parts: Sequence[Tensor]) -> Tensor:
    """The parts stacked along a new first axis."""
    return join([reshaped(part, (1, *part.shape)) for part in parts])


def cut(whole: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Consecutive blocks with the given numbers of rows."""
    if len(rows) == 1:
        return [whole]
    ends = list(accumulate(rows))
    if isinstance(whole, np.ndarray):
        return list(np.split(whole, ends[:-1]))
    if [part.shape[0] for part in whole.parts] == list(rows):
        return list(whole.parts)
    return [_block(whole, end - count, end) for count, end in zip(rows, ends, strict=True)]


def _block(whole: Tensor, start: int, end: int) -> LazyTensor:
    stored = whole.quantised if isinstance(whole, LazyTensor) else None
    return LazyTensor(
        (end - start, *whole.shape[1:]),
        whole.dtype,
        lambda: np.asarray(whole)[start:end],
        quantised=stored and (lambda: stored()._replace(rows=stored().rows[start:end])),
    )
