"""files -> batches."""

from llm_jax.data.batches import Batch, Batches, Source
from llm_jax.data.synthetic import NoisyLine
from llm_jax.data.text import (
    SEPARATOR,
    TokenWindows,
    read_documents,
    split_documents,
    tokenize,
    unigram_entropy,
    windows,
)

__all__ = [
    "SEPARATOR",
    "Batch",
    "Batches",
    "NoisyLine",
    "Source",
    "TokenWindows",
    "read_documents",
    "split_documents",
    "tokenize",
    "unigram_entropy",
    "windows",
]
