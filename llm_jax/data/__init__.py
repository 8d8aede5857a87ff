"""files -> batches."""

from llm_jax.data.batches import Batches
from llm_jax.data.encoding import SEPARATOR, Encoded, encode_record
from llm_jax.data.files import DataFile, find_files
from llm_jax.data.messages import Conversation
from llm_jax.data.packing import PackedRows
from llm_jax.data.pairs import PreferencePairs, pair_rows
from llm_jax.data.preparation import Watcher, cache_directory, prepare
from llm_jax.data.reading import Part, cut_into_parts, read_records
from llm_jax.data.records import Completion, Form, Preference, Record, read_record
from llm_jax.data.sequences import TokenSequences
from llm_jax.data.synthetic import NOISE, NoisyLine
from llm_jax.data.text import (
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
    "Completion",
    "Conversation",
    "DataFile",
    "Encoded",
    "Example",
    "Form",
    "NoisyLine",
    "PackedRows",
    "Part",
    "Preference",
    "PreferencePairs",
    "Record",
    "Source",
    "TokenSequences",
    "TokenWindows",
    "Watcher",
    "cache_directory",
    "cut_into_parts",
    "encode_record",
    "find_files",
    "pair_rows",
    "prepare",
    "read_documents",
    "read_record",
    "read_records",
    "split_documents",
    "tokenize",
    "unigram_entropy",
    "windows",
]
