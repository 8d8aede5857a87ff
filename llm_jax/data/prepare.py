"""Datasets -> token sequences."""

from collections.abc import Iterable
from pathlib import Path

from llm_jax.data.encoding import Encoded, encode_record
from llm_jax.data.files import find_files
from llm_jax.data.reading import cut_into_parts, read_records
from llm_jax.data.records import Form
from llm_jax.data.sequences import TokenSequences
from llm_jax.tokenizers import Tokenizer


def prepare(paths: str | Path | Iterable[str | Path], tokenizer: Tokenizer, form: Form) -> TokenSequences:
    """The tokens of a dataset: files, directories, globs, or a list of them.

    Args:
        form: what is learnt of a record: all of its text, the assistant's answers, or which of two answers is better.

    Raises:
        DataError: a path names nothing, or a record is not as it should be; with its file and line.
    """
    sequences: list[Encoded] = []
    for file in find_files(paths):
        for part in cut_into_parts(file):
            for record in read_records(part, form):
                sequences += encode_record(tokenizer, record, form)
    return TokenSequences.of(sequences)
