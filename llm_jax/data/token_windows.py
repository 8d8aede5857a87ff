"""A stream of tokens -> windows to train on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llm_jax.data.sequences import TokenSequences
from llm_jax.data.types import Example
from llm_jax.errors import DataError

_ENTROPY = 1 << 26  # tokens that are counted for the entropy, at most


@dataclass(frozen=True)
class TokenWindows:
    """Random access to training examples: windows of `length` tokens, each labelled with the token that follows.

    The windows lie in one stream of all sequences, so that attention runs on from one sequence to the next. Without
    overlap every token but the first is a label exactly once. The last window is padded, and padding has weight 0.

    Attributes:
        length: T, the tokens of a window.
        overlap: tokens shared with the window before.
        pad: id of the padding.
    """

    sequences: TokenSequences
    length: int
    overlap: int = 0
    pad: int = 0

    def __len__(self) -> int:
        return max(1, -(-(len(self.sequences.stream) - 1 - self.overlap) // (self.length - self.overlap)))

    def __getitem__(self, index: int) -> Example:
        """inputs int32 [T], targets int32 [T], weights float32 [T] (1 where the target counts)."""
        start = index * (self.length - self.overlap)
        piece = self.sequences.stream[start : start + self.length + 1]
        window = np.full(self.length + 1, self.pad, np.int32)
        window[: len(piece)] = piece
        weights = (np.arange(self.length) < len(piece) - 1).astype(np.float32)
        return {"inputs": window[:-1], "targets": window[1:], "weights": weights}

    @property
    def fingerprint(self) -> str:
        """Of the tokens, the same for the same sequences alone."""
        return self.sequences.fingerprint


def windows(sequences: TokenSequences, length: int, *, overlap: int, pad: int | None, name: str) -> TokenWindows:
    """Windows over a stream of tokens.

    Args:
        name: of the text, for the error message.

    Raises:
        DataError: the stream is shorter than one window; the message gives both sizes.
    """
    if len(sequences.stream) < length + 1:
        raise DataError(
            f"The {name} text has {len(sequences.stream)} tokens, fewer than one window of data.max_seq_len + 1 = "
            f"{length + 1}. Use more text or a smaller data.max_seq_len."
        )
    return TokenWindows(sequences, length, overlap, pad or 0)


def unigram_entropy(sequences: TokenSequences) -> float:
    """Entropy of the token frequencies in nats per token: the loss of the best model that ignores all context.

    Of a large corpus the frequencies are those at its beginning.
    """
    counts = np.zeros(1, np.int64)
    for piece in _pieces(sequences):
        found = np.bincount(piece, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _pieces(sequences: TokenSequences) -> Iterator[np.ndarray]:
    stream = sequences.stream
    for start in range(0, min(len(stream), _ENTROPY), 1 << 22):
        yield stream[start : start + (1 << 22)]
