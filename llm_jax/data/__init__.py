"""files -> batches."""

from llm_jax.data.batches import Batches
from llm_jax.data.synthetic import NOISE, NoisyLine
from llm_jax.data.text import (
    SEPARATOR,
    TokenWindows,
    read_documents,
    split_documents,
    tokenize,
    unigram_entropy,
    windows,
)
from llm_jax.data.types import Batch, Example, Source

__all__ = [
    "NOISE",
    "SEPARATOR",
    "Batch",
    "Batches",
    "Example",
    "NoisyLine",
    "Source",
    "TokenWindows",
    "read_documents",
    "split_documents",
    "tokenize",
    "unigram_entropy",
    "windows",
]
