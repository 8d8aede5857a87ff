"""Tensors that are not in memory: views of a mapped file, and what is made of them when it is asked for.

A large model is converted one tensor at a time. What needs no arithmetic (a cut, a transposition) is a view; what
does is a LazyTensor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

Shape = tuple[int, ...]
BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """An array that `read` makes anew each time; numpy.asarray calls it.

    Attributes:
        parts: the blocks of rows that it is joined of, where it is: who cuts it there gets them back unread.
    """

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    parts: tuple["Tensor", ...] = ()

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
    """The tensor in contiguous arrays [rows, …] of about BLOCK_BYTES: a change of dtype never has all of it twice.

    Args:
        dtype: what to give; as the tensor is unless given.
    """
    whole = np.atleast_1d(np.asarray(tensor))
    rows = max(1, BLOCK_BYTES * len(whole) // max(whole.nbytes, 1))
    for start in range(0, len(whole), rows):
        yield np.ascontiguousarray(whole[start : start + rows], dtype)


def mapped(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    """The tensor behind a change that keeps shape and dtype."""
    return LazyTensor(tensor.shape, tensor.dtype, lambda: change(np.asarray(tensor)))


def reshaped(tensor: Tensor, shape: Shape) -> Tensor:
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(shape)
    return LazyTensor(shape, tensor.dtype, lambda: np.asarray(tensor).reshape(shape))


def transposed(tensor: Tensor) -> Tensor:
    if isinstance(tensor, np.ndarray):
        return tensor.T
    return LazyTensor(tensor.shape[::-1], tensor.dtype, lambda: np.asarray(tensor).T)


def join(parts: Sequence[Tensor]) -> Tensor:
    """The parts, one behind the other along their rows."""
    if len(parts) == 1:
        return parts[0]
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    dtype = np.result_type(*(part.dtype for part in parts))
    return LazyTensor(shape, dtype, lambda: np.concatenate([np.asarray(part) for part in parts]), tuple(parts))


def stack(parts: Sequence[Tensor]) -> Tensor:
    """The parts, one behind the other along a new first axis."""
    return join([reshaped(part, (1, *part.shape)) for part in parts])


def cut(whole: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Blocks of so many rows each."""
    if len(rows) == 1:
        return [whole]
    ends = list(accumulate(rows))
    if isinstance(whole, np.ndarray):
        return list(np.split(whole, ends[:-1]))
    if [part.shape[0] for part in whole.parts] == list(rows):
        return list(whole.parts)
    return [_block(whole, end - count, end) for count, end in zip(rows, ends, strict=True)]


def _block(whole: Tensor, start: int, end: int) -> LazyTensor:
    return LazyTensor((end - start, *whole.shape[1:]), whole.dtype, lambda: np.asarray(whole)[start:end])
