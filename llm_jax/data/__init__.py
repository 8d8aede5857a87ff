"""files -> batches."""

from llm_jax.data.batches import Batches
from llm_jax.data.encoding import SEPARATOR, Encoded, beginning, encode_record
from llm_jax.data.files import DataFile, find_files
from llm_jax.data.messages import Conversation
from llm_jax.data.mixture import Mixture
from llm_jax.data.packing import PackedRows
from llm_jax.data.pairs import PreferencePairs, pair_rows
from llm_jax.data.preparation import Watcher, dataset_digest, prepare
from llm_jax.data.progress import TokenisingBar
from llm_jax.data.reading import Part, cut_into_parts, read_records, read_texts
from llm_jax.data.records import Completion, Form, Preference, Record, read_record
from llm_jax.data.sequences import TokenSequences, cut_point
from llm_jax.data.shard_cache import StoredShard, cache_directory, remove_shards, stored_shards
from llm_jax.data.synthetic import NOISE, NoisyLine
from llm_jax.data.token_windows import TokenWindows, unigram_entropy, windows
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
    "Mixture",
    "NoisyLine",
    "PackedRows",
    "Part",
    "Preference",
    "PreferencePairs",
    "Record",
    "Source",
    "StoredShard",
    "TokenSequences",
    "TokenWindows",
    "TokenisingBar",
    "Watcher",
    "beginning",
    "cache_directory",
    "cut_into_parts",
    "cut_point",
    "dataset_digest",
    "encode_record",
    "find_files",
    "pair_rows",
    "prepare",
    "read_record",
    "read_records",
    "read_texts",
    "remove_shards",
    "stored_shards",
    "unigram_entropy",
    "windows",
]
