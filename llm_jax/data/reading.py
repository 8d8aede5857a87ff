"""Files -> records, one at a time. A file is cut into parts, which different processes can read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm_jax.data.files import DataFile, find_files
from llm_jax.data.lines import Located, read_array, read_documents, read_objects
from llm_jax.data.messages import Conversation, FieldError
from llm_jax.data.records import SHAPES, Completion, Form, Record, read_record
from llm_jax.data.tables import read_rows, table_bounds
from llm_jax.errors import DataError

PART = 1 << 21  # bytes of a part
COLUMNS = {name for shapes in SHAPES.values() for shape in shapes for name in shape} | {"tools", "system"}


@dataclass(frozen=True)
class Part:
    """A range of a file: of bytes, of row groups (Parquet) or of record batches (Arrow); None is the file's end."""

    file: DataFile
    begin: int = 0
    end: int | None = None


def cut_into_parts(file: DataFile) -> list[Part]:
    """Parts that together are the file: of about PART bytes, where a file of its format can be read from the middle."""
    if file.is_stream:
        return [Part(file)]
    if file.format in ("text", "jsonl"):
        bounds = [*range(0, file.path.stat().st_size, PART), None]
    else:
        bounds = table_bounds(file, PART)
    return [Part(file, begin, end) for begin, end in pairwise(bounds)]


def read_records(part: Part, form: Form) -> Iterator[Record]:
    """The records of a part, in their order.

    Raises:
        DataError: naming the file, the line or row, and the field.
    """
    for where, fields in read_fields(part):
        yield parse(part, where, fields, form)


def parse(part: Part, where: Callable[[], str], fields: dict[str, Any], form: Form) -> Record:
    """The record that fields are.

    Raises:
        DataError: naming the file, the line or row, and the field.
    """
    try:
        return read_record(fields, form)
    except FieldError as error:
        raise DataError(f"{part.file.path}, {where()}: {error}") from None


def read_texts(paths: str | Path | Iterable[str | Path]) -> Iterator[str]:
    """The text of every record of a dataset, one at a time: what a tokenizer is made from.

    Raises:
        DataError: a path names nothing, or a record is not as it should be.
    """
    for file in find_files(paths):
        for part in cut_into_parts(file):
            for record in read_records(part, "text"):
                match record:
                    case str():
                        yield record
                    case Completion(prompt, completion):
                        yield prompt + completion
                    case Conversation(messages):
                        yield "\n".join(message["content"] for message in messages)


def read_fields(part: Part) -> Iterator[Located]:
    """The fields of the records of a part, and where they are."""
    match part.file.format:
        case "text":
            return read_documents(part.file, part.begin, part.end)
        case "jsonl":
            return read_objects(part.file, part.begin, part.end)
        case "json":
            return read_array(part.file)
        case _:
            return read_rows(part.file, COLUMNS, part.begin, part.end)
