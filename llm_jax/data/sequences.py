"""Sequences of tokens in flat arrays, in memory or mapped from files."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from llm_jax.data.encoding import Encoded


@dataclass(frozen=True)
class TokenSequences:
    """Random access to sequences of tokens that lie one behind the other.

    Attributes:
        tokens: [all] int32 or uint16.
        ends: [sequences] int64: where each ends in `tokens`.
        learnt: [all] uint8: 1 for a token that is to be predicted; None where all are.
    """

    tokens: np.ndarray
    ends: np.ndarray
    learnt: np.ndarray | None = None

    @classmethod
    def of(cls, sequences: Iterable[Encoded]) -> "TokenSequences":
        ids: list[int] = []
        learnt: list[int] = []
        ends = []
        for sequence in sequences:
            ids += sequence.ids
            learnt += sequence.learnt
            ends.append(len(ids))
        marks = np.asarray(learnt, np.uint8)
        return cls(np.asarray(ids, np.int32), np.asarray(ends, np.int64), None if marks.all() else marks)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n], learnt float32 [n])."""
        return self.piece(index, 0, int(self.lengths[index]))

    def piece(self, index: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens begin … end - 1 of a sequence: (ids int32, learnt float32)."""
        offset = int(self.ends[index] - self.lengths[index])
        where = slice(offset + begin, offset + end)
        ids = np.asarray(self.tokens[where], np.int32)
        return ids, np.ones(len(ids), np.float32) if self.learnt is None else self.learnt[where].astype(np.float32)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.diff(self.ends, prepend=0)

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same sequences alone."""
        digest = blake2b(digest_size=16)
        for array in (self.tokens.astype(np.int32), self.ends, np.ones(0) if self.learnt is None else self.learnt):
            digest.update(array.tobytes())
        return digest.hexdigest()
