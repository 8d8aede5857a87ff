"""Sequences of tokens in flat arrays, in memory or mapped from files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from llm_jax.data.encoding import Encoded


@dataclass(frozen=True)
class Shard:
    """Sequences of tokens that lie one behind the other.

    Attributes:
        tokens: [all] int: ids.
        ends: [sequences] int64: where each ends in `tokens`.
        sizes: [sequences] int64: characters of the text of each.
        learnt: [all] uint8: 1 for a token that is to be predicted; None where all are.
        digest: the same for the same tokens alone.
        lease: what keeps the files of a stored shard from being removed, as long as it lives.
    """

    tokens: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray
    learnt: np.ndarray | None
    digest: str
    lease: object = None

    @classmethod
    def of(cls, sequences: Iterable[Encoded], dtype: type[np.integer] = np.int32) -> "Shard":
        """The sequences as arrays. Marks of what is learnt are there where any sequence has some."""
        sequences = list(sequences)
        lengths = np.array([len(sequence.ids) for sequence in sequences], np.int64)
        tokens, learnt = np.empty(lengths.sum(), dtype), None
        if any(sequence.learnt is not None for sequence in sequences):
            learnt = np.ones(len(tokens), np.uint8)
        ends = np.cumsum(lengths)
        for sequence, end in zip(sequences, ends.tolist(), strict=True):
            where = slice(end - len(sequence.ids), end)
            tokens[where] = sequence.ids
            if learnt is not None and sequence.learnt is not None:
                learnt[where] = sequence.learnt
        sizes = np.array([sequence.size for sequence in sequences], np.int64)
        digest = digest_of(tokens.astype(np.int32), ends, np.ones(0) if learnt is None else learnt)
        return cls(tokens, ends, sizes, learnt, digest)

    def cut(self, begin: int, end: int) -> "Shard":
        """Sequences begin … end - 1."""
        first, last = (int(self.ends[index - 1]) if index else 0 for index in (begin, end))
        learnt = None if self.learnt is None else self.learnt[first:last]
        digest = f"{self.digest} {begin}:{end}"
        tokens, ends, sizes = self.tokens[first:last], self.ends[begin:end] - first, self.sizes[begin:end]
        return Shard(tokens, ends, sizes, learnt, digest, self.lease)

    def cut_single(self, fraction: float) -> tuple["Shard", "Shard"]:
        """The first `fraction` of the tokens of a shard that is one sequence, and the others."""
        cut = int(len(self.tokens) * fraction)
        parts = []
        for begin, end in ((0, cut), (cut, len(self.tokens))):
            learnt = None if self.learnt is None else self.learnt[begin:end]
            size = self.sizes * (end - begin) // max(1, len(self.tokens))
            tokens, digest = self.tokens[begin:end], f"{self.digest} tokens {begin}:{end}"
            parts.append(Shard(tokens, np.array([end - begin]), size, learnt, digest, self.lease))
        return parts[0], parts[1]


def digest_of(*arrays: np.ndarray) -> str:
    """The same for the same bytes alone."""
    digest = blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class TokenSequences:
    """Random access to sequences of tokens.

    >>> sequences = TokenSequences.of([Encoded([5, 6, 7], [0, 1, 1], 3), Encoded([8, 9], None, 2)])
    >>> sequences[0]
    (array([5, 6, 7], dtype=int32), array([0., 1., 1.], dtype=float32))
    """

    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, sequences: Iterable[Encoded]) -> "TokenSequences":
        return cls((Shard.of(sequences),))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n], learnt float32 [n])."""
        return self.piece(index, 0, int(self.lengths[index]))

    def piece(self, index: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens begin … end - 1 of a sequence: (ids int32, learnt float32)."""
        number = int(np.searchsorted(self._firsts, index, side="right")) - 1
        shard, index = self.shards[number], index - int(self._firsts[number])
        offset = int(shard.ends[index - 1]) if index else 0
        where = slice(offset + begin, offset + end)
        ids = np.asarray(shard.tokens[where], np.int32)
        return ids, np.ones(len(ids), np.float32) if shard.learnt is None else shard.learnt[where].astype(np.float32)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.concatenate([np.diff(shard.ends, prepend=0) for shard in self.shards])

    @cached_property
    def first_labels(self) -> np.ndarray:
        """For each sequence the first token that is learnt from another before it, int64; its length of none."""
        return np.concatenate([_first_labels(shard) for shard in self.shards])

    @cached_property
    def stream(self) -> "TokenStream":
        """All tokens in a row."""
        return TokenStream([shard.tokens for shard in self.shards])

    @property
    def fingerprint(self) -> str:
        """The same for the same tokens alone."""
        return digest_of(np.frombuffer("\n".join(shard.digest for shard in self.shards).encode(), np.uint8))

    def split(self, fraction: float, group: int = 1) -> tuple["TokenSequences", "TokenSequences"]:
        """Two parts, the second with the last sequences, of about `fraction` of the characters.

        Sequences stay whole; only a single one is cut.

        Args:
            group: how many in a row stay together.
        """
        if len(self) <= group:
            if group > 1 or not len(self):
                return self, TokenSequences((self.shards[0].cut(0, 0),))
            first, second = next(shard for shard in self.shards if len(shard.ends)).cut_single(1.0 - fraction)
            return TokenSequences((first,)), TokenSequences((second,))
        sizes = np.concatenate([shard.sizes for shard in self.shards]).reshape(-1, group).sum(1)
        cut = group * cut_point(sizes, fraction)
        before, after = [], []
        for begin, shard in zip(self._firsts.tolist(), self.shards, strict=True):
            here = min(max(cut - begin, 0), len(shard.ends))
            before += [shard.cut(0, here)] if here > 0 else []
            after += [shard.cut(here, len(shard.ends))] if here < len(shard.ends) else []
        return TokenSequences(tuple(before)), TokenSequences(tuple(after))

    @cached_property
    def _firsts(self) -> np.ndarray:
        """The number of the first sequence of each shard."""
        return np.cumsum([0, *(len(shard.ends) for shard in self.shards[:-1])])


def cut_point(sizes: np.ndarray, fraction: float) -> int:
    """How many come before the last ones that have about `fraction` of the sum; at least one on either side."""
    ends = np.cumsum(sizes)
    cut = int(np.searchsorted(ends, ends[-1] * (1.0 - fraction), side="right"))
    return min(max(cut, 1), len(ends) - 1)


@dataclass(frozen=True)
class TokenStream:
    """Arrays of ids as if they were one, of which only slices are read."""

    arrays: Sequence[np.ndarray]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, where: slice) -> np.ndarray:
        """Ids, int32."""
        begin, end, _ = where.indices(len(self))
        first = int(np.searchsorted(self._ends, begin, side="right"))
        pieces = [np.zeros(0, np.int32)]
        for array, stop in zip(self.arrays[first:], self._ends[first:].tolist(), strict=True):
            start = stop - len(array)
            if start >= end:
                break
            pieces.append(array[max(begin - start, 0) : end - start])
        return np.concatenate(pieces).astype(np.int32)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(array) for array in self.arrays])


def _first_labels(shard: Shard) -> np.ndarray:
    lengths = np.diff(shard.ends, prepend=0)
    if shard.learnt is None:
        return np.minimum(lengths, 1)
    found = lengths.copy()
    for index, (end, length) in enumerate(zip(shard.ends.tolist(), lengths.tolist(), strict=True)):
        marks = shard.learnt[end - length + 1 : end]
        if marks.any():
            found[index] = 1 + int(marks.argmax())
    return found
