"""Parquet files, and Arrow files as Hugging Face's `datasets` saves them -> rows."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llm_jax.data.files import DataFile
from llm_jax.data.lines import Located
from llm_jax.errors import DataError

_ROWS = 1024  # that are made objects at once


def table_bounds(file: DataFile, size: int) -> list[int]:
    """Where the parts of a file begin and end, of about `size` bytes each: numbers of row groups or record batches."""
    with _open(file) as (_, sizes):
        bounds, total = [0], 0
        for number, nbytes in enumerate(sizes, 1):
            total += nbytes
            if total >= size:
                bounds.append(number)
                total = 0
        return bounds if len(bounds) > 1 and bounds[-1] == len(sizes) else [*bounds, len(sizes)]


def read_rows(file: DataFile, columns: Collection[str], begin: int = 0, end: int | None = None) -> Iterator[Located]:
    """The rows of a file. Of the columns those in `columns` are read, where it has any of them.

    Args:
        begin, end: row groups or record batches.

    Raises:
        DataError: the file is damaged, or pyarrow is not installed.
    """
    with _open(file) as (table, sizes):
        end = len(sizes) if end is None else end
        number = 0
        for index in range(end):
            if index < begin:
                number += table.rows(index)
                continue
            for batch in table.batches(index, columns):
                for start in range(0, batch.num_rows, _ROWS):
                    for row in batch.slice(start, _ROWS).to_pylist():
                        number += 1
                        yield partial("row {}".format, number), row


class _Parquet:
    def __init__(self, source: Any) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(source)
        groups = range(self._file.num_row_groups)
        self.sizes = [self._file.metadata.row_group(index).total_byte_size for index in groups]

    def rows(self, index: int) -> int:
        return self._file.metadata.row_group(index).num_rows

    def batches(self, index: int, columns: Collection[str]) -> Iterator[Any]:
        wanted = [name for name in self._file.schema_arrow.names if name in columns] or None
        return self._file.iter_batches(_ROWS, row_groups=[index], columns=wanted)


class _Arrow:
    """The streaming format, and the one with a footer; either is mapped, so that its batches are not in memory."""

    def __init__(self, source: Any) -> None:
        import pyarrow

        try:
            self._batches = list(pyarrow.ipc.open_stream(source))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self.sizes = [batch.nbytes for batch in self._batches]

    def rows(self, index: int) -> int:
        return self._batches[index].num_rows

    def batches(self, index: int, columns: Collection[str]) -> Iterator[Any]:
        batch = self._batches[index]
        wanted = [name for name in batch.schema.names if name in columns] or batch.schema.names
        yield batch.select(wanted)


@contextmanager
def _open(file: DataFile) -> Iterator[tuple[_Parquet | _Arrow, list[int]]]:
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{file.path}: to read {file.format}, install the extra 'data' (pyarrow).") from None
    try:
        with pyarrow.memory_map(str(file.path)) as source:
            table = _Parquet(source) if file.format == "parquet" else _Arrow(source)
            yield table, table.sizes
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: cannot be read as {file.format} ({error}).") from None
