"""Preferences -> pairs of rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_jax.data.packing import PackedRows
from llm_jax.data.sequences import TokenSequences
from llm_jax.data.types import Batch, Example


@dataclass(frozen=True)
class PreferencePairs:
    """Random access to pairs of rows: the chosen answer behind its prompt, then the rejected one behind the same.

    Attributes:
        sequences: a chosen one, then its rejected one, and so on.
        length: T; what is beyond it is left out.
        pad: id of the padding.
    """

    sequences: TokenSequences
    length: int
    pad: int = 0

    def __len__(self) -> int:
        return len(self._pairs[0])

    def __getitem__(self, index: int) -> Example:
        """inputs, targets int32 [2, T], weights float32 [2, T]."""
        chosen, rejected = (self._rows[int(numbers[index])] for numbers in self._pairs)
        return {name: np.stack([chosen[name], rejected[name]]) for name in chosen}

    @property
    def fingerprint(self) -> str:
        """Of the tokens, the same for the same pairs alone."""
        return self.sequences.fingerprint

    @property
    def left_out(self) -> int:
        """Pairs that are not there, because nothing of one of the answers is within T."""
        return len(self.sequences) // 2 - len(self)

    @cached_property
    def _rows(self) -> PackedRows:
        return PackedRows(self.sequences, self.length, self.pad, share=False)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the chosen answers and those of the rejected ones, of which both are there."""
        chosen, rejected = (np.flatnonzero(self._rows.numbers % 2 == side) for side in (0, 1))
        numbers = self._rows.numbers // 2
        _, first, second = np.intersect1d(numbers[chosen], numbers[rejected], assume_unique=True, return_indices=True)
        return chosen[first], rejected[second]


def pair_rows(batch: Batch) -> Batch:
    """[B, 2, T] -> [2 B, T]: the chosen rows, then the rejected ones in the same order."""
    return {name: value.swapaxes(0, 1).reshape(-1, value.shape[-1]) for name, value in batch.items()}
