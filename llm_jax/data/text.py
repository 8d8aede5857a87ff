"""Text files -> documents -> one stream of tokens -> windows to train on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_jax.data.encoding import SEPARATOR
from llm_jax.data.types import Example
from llm_jax.errors import DataError
from llm_jax.tokenizers import Tokenizer


def read_documents(path: str | Path) -> list[str]:
    """The documents of a UTF-8 text file, or of all *.txt below a directory in order of their names.

    Blank lines separate documents.

    Raises:
        DataError: nothing is there, a file is not UTF-8, or there is no text in it.
    """
    path = Path(path)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    try:
        texts = [file.read_text(encoding="utf-8") for file in files]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file. Name a text file, or a directory of *.txt files.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}). Convert it first.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    documents = [document.strip("\n") for text in texts for document in re.split(r"\n\s*\n", text) if document.strip()]
    if not documents:
        raise DataError(f"{path}: there is no text in it. Name a text file, or a directory of *.txt files.")
    return documents


def split_documents(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """Training and validation documents; the last ones, about val_fraction of the characters, are for validation.

    Documents stay whole; only a text that is a single document is cut.
    """
    if len(documents) == 1:
        cut = int(len(documents[0]) * (1.0 - val_fraction))
        return [documents[0][:cut]], [documents[0][cut:]]
    ends = np.cumsum([len(document) for document in documents])
    cut = int(np.searchsorted(ends, ends[-1] * (1.0 - val_fraction), side="right"))
    cut = min(max(cut, 1), len(documents) - 1)
    return list(documents[:cut]), list(documents[cut:])


def tokenize(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """One int32 stream: each document followed by EOS, or by a blank line where the tokenizer has no EOS."""
    if tokenizer.eos_token_id is None:
        return np.asarray(tokenizer.encode(SEPARATOR.join(documents)), np.int32)
    ids: list[int] = []
    for document in documents:
        ids += [*tokenizer.encode(document), tokenizer.eos_token_id]
    return np.asarray(ids, np.int32)


@dataclass(frozen=True)
class TokenWindows:
    """Random access to training examples: windows of `length` tokens, each labelled with the token that follows.

    Without overlap every token but the first is a label exactly once. The last window is padded, and padding has
    weight 0.

    Attributes:
        tokens: int32, the stream.
        length: T, the tokens of a window.
        overlap: tokens shared with the window before.
        pad: id of the padding.
    """

    tokens: np.ndarray
    length: int
    overlap: int = 0
    pad: int = 0

    def __len__(self) -> int:
        return max(1, -(-(len(self.tokens) - 1 - self.overlap) // (self.length - self.overlap)))

    def __getitem__(self, index: int) -> Example:
        """inputs int32 [T], targets int32 [T], weights float32 [T] (1 where the target counts)."""
        start = index * (self.length - self.overlap)
        piece = self.tokens[start : start + self.length + 1]
        window = np.full(self.length + 1, self.pad, np.int32)
        window[: len(piece)] = piece
        weights = (np.arange(self.length) < len(piece) - 1).astype(np.float32)
        return {"inputs": window[:-1], "targets": window[1:], "weights": weights}


def windows(tokens: np.ndarray, length: int, *, overlap: int, pad: int | None, name: str) -> TokenWindows:
    """Windows over a stream of tokens.

    Args:
        name: of the text, for the error message.

    Raises:
        DataError: the stream is shorter than one window; the message gives both sizes.
    """
    if len(tokens) < length + 1:
        raise DataError(
            f"The {name} text has {len(tokens)} tokens, fewer than one window of data.max_seq_len + 1 = {length + 1}. "
            "Use more text or a smaller data.max_seq_len."
        )
    return TokenWindows(tokens, length, overlap, pad or 0)


def unigram_entropy(tokens: np.ndarray) -> float:
    """Entropy of the token frequencies in nats per token: the loss of the best model that ignores all context."""
    counts = np.bincount(tokens)
    p = counts[counts > 0] / len(tokens)
    return float(-(p * np.log(p)).sum())
