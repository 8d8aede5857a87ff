"""Sequences -> rows of T tokens: several to a row, each with its own segment and positions that restart."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_jax.data.sequences import TokenSequences
from llm_jax.data.types import Example

_AT_ONCE = 1 << 16  # sequences that are packed together


@dataclass(frozen=True)
class PackedRows:
    """Random access to rows of `length` tokens, each labelled with the token that follows in its own sequence.

    A sequence that fits stays whole. A longer one is cut: its parts are rows of their own (`split`), or what is beyond
    is left out. Which sequences share a row depends on the seed alone. Padding has segment 0 and weight 0.

    Attributes:
        length: T.
        pad: id of the padding.
        first: an id to put before every sequence, so that its first token is a label too; None for nothing.
        split: whether what is beyond `length` makes further rows.
        share: whether sequences share rows; else each row is one of them, and has no segments.
        seed: of the order in which sequences are put into rows.
    """

    sequences: TokenSequences
    length: int
    pad: int = 0
    first: int | None = None
    split: bool = False
    share: bool = True
    seed: int = 0

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Example:
        """inputs, targets int32 [T], weights float32 [T]; where rows are shared, segments and positions int32 [T]."""
        row = {name: np.zeros(self.length, np.int32) for name in ("inputs", "targets", "segments", "positions")}
        row["inputs"][:] = row["targets"][:] = self.pad
        row["weights"] = np.zeros(self.length, np.float32)
        at = 0
        for number, piece in enumerate(self._order[self._starts[index] : self._starts[index + 1]], 1):
            sequence, begin, end = (int(column[piece]) for column in self._pieces)
            ids, learnt = self._with_first(sequence, begin, end)
            where = slice(at, at + len(ids) - 1)
            row["inputs"][where], row["targets"][where], row["weights"][where] = ids[:-1], ids[1:], learnt[1:]
            row["segments"][where], row["positions"][where] = number, np.arange(len(ids) - 1)
            at += len(ids) - 1
        if not self.share:
            del row["segments"], row["positions"]
        return row

    @property
    def fingerprint(self) -> str:
        """Of the tokens, the same for the same sequences alone."""
        return self.sequences.fingerprint

    @property
    def numbers(self) -> np.ndarray:
        """Which sequence each piece is of, int64; where rows are not shared, each row."""
        return self._pieces[0]

    @cached_property
    def left_out(self) -> int:
        """How many sequences are not there at all, because nothing of them that fits is learnt."""
        return len(self.sequences) - len(np.unique(self.numbers))

    def _with_first(self, sequence: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens [begin, end) of a sequence, whose token -1 is `first`."""
        ids, learnt = self.sequences.piece(sequence, max(begin, 0), end)
        if begin < 0:
            ids, learnt = np.insert(ids, 0, self.first or 0), np.insert(learnt, 0, 0.0)
        return ids, learnt

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sequence, begin, end) of all pieces; a piece has one token more than it takes inputs."""
        begin = 0 if self.first is None else -1
        inputs = self.sequences.lengths - 1 - begin
        count = np.where(inputs > 0, -(-inputs // self.length) if self.split else 1, 0)
        sequence = np.repeat(np.arange(len(count)), count)
        part = np.arange(len(sequence)) - np.repeat(np.cumsum(count) - count, count)
        starts = begin + part * self.length
        ends = np.minimum(starts + self.length + 1, self.sequences.lengths[sequence])
        if not self.split:  # nothing is learnt of one whose first label is beyond its end
            useful = (self.sequences.first_labels[sequence] < ends) | (starts < 0)
            sequence, starts, ends = sequence[useful], starts[useful], ends[useful]
        return sequence, starts, ends

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Pieces in the order of rows, and where each row starts among them."""
        _, starts, ends = self._pieces
        sizes = ends - starts - 1
        if not self.share:
            return np.arange(len(sizes)), np.arange(len(sizes) + 1)
        shuffled = np.random.default_rng(self.seed).permutation(len(sizes))
        rows: list[list[int]] = []
        for first in range(0, len(shuffled), _AT_ONCE):
            some = shuffled[first : first + _AT_ONCE]
            rows += [some[row].tolist() for row in best_fit(sizes[some], self.length)]
        order = np.fromiter((piece for row in rows for piece in row), np.int64, len(sizes))
        return order, np.cumsum([0, *map(len, rows)])

    @property
    def _order(self) -> np.ndarray:
        return self._rows[0]

    @property
    def _starts(self) -> np.ndarray:
        return self._rows[1]


def best_fit(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Which of the pieces share a row: each, the longest first, joins the row that it fills best.

    >>> best_fit(np.array([3, 5, 2, 6]), 8)
    [[3, 2], [1, 0]]
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by what is left in them
    some_left = 0  # bit n: there is a row with n left
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = some_left >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[left].pop()
            if not open_rows[left]:
                some_left ^= 1 << left
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        left -= size
        if left:
            open_rows[left].append(row)
            some_left |= 1 << left
    return rows
