"""Text and JSON files -> documents and objects, also from the middle of a file, also compressed."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

from llm_jax.data.files import DataFile
from llm_jax.errors import DataError

NEWLINE = b"\n"
_BLOCK = 1 << 20
LONGEST = 1 << 23  # bytes of a document or a line of text, which is cut beyond that

Located = tuple[Callable[[], str], dict[str, Any]]  # where they are, and the fields by name


def read_documents(file: DataFile, begin: int = 0, end: int | None = None) -> Iterator[Located]:
    """The documents of a UTF-8 text file, which blank lines separate, each as the field `text`.

    Args:
        begin, end: bytes; a document belongs to the range that it begins in.

    Raises:
        DataError: the file is not UTF-8.
    """
    with open_file(file) as stream:
        first = 0 if begin == 0 else _cut(stream, begin)
        last = None if end is None else _cut(stream, end)
        stream.seek(first)
        position, began, lines = first, first, list[bytes]()
        while last is None or position < last:
            line = _read_line(stream, LONGEST if last is None else min(LONGEST, last - position))
            is_blank = not line.strip()
            if not is_blank:
                began = began if lines else position
                lines.append(line)
            position += len(line)
            if lines and (is_blank or position - began >= LONGEST):
                yield _document(file, began, lines)
                lines = []
            if not line:
                return
        if lines:
            yield _document(file, began, lines)


def read_objects(file: DataFile, begin: int = 0, end: int | None = None) -> Iterator[Located]:
    """The objects of a file with one in each line, in JSON.

    Args:
        begin, end: bytes; a line belongs to the range that it begins in.

    Raises:
        DataError: a line is not an object in JSON.
    """
    with open_file(file) as stream:
        at = begin
        if begin:
            stream.seek(begin - 1)
            at += len(stream.readline()) - 1
        while end is None or at < end:
            line = stream.readline()
            if not line:
                return
            if line.strip():
                yield _located(file, at), _object(file, at, line)
            at += len(line)


def read_array(file: DataFile) -> Iterator[Located]:
    """The objects of a JSON file: an array of them, or one in each line.

    Raises:
        DataError: the file holds something else.
    """
    with open_file(file) as stream:
        head = stream.peek(1024).lstrip(b"\xef\xbb\xbf \t\r\n")  # type: ignore[attr-defined]  # every opener buffers
        if not head.startswith(b"["):
            yield from read_objects(file)
            return
        try:
            entries = json.loads(stream.read())
        except ValueError as error:
            raise DataError(f"{file.path}: not JSON ({error}).") from None
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{file.path}, entry {number}: holds {entry!r:.40}; it must be an object.")
        yield partial("entry {}".format, number), entry


@contextmanager
def open_file(file: DataFile) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed.

    Raises:
        DataError: it cannot be read, or its compression is damaged.
    """
    opener, damaged = _opener(file)
    try:
        with opener(file.path) as stream:
            yield stream
    except damaged as error:
        raise DataError(f"{file.path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def _opener(file: DataFile) -> tuple[Callable[..., Any], tuple[type[Exception], ...]]:
    """What opens a file, and what it raises where the file is damaged."""
    match file.compression:
        case ".gz":
            return gzip.open, (OSError, EOFError, zlib.error)
        case ".zst":
            try:
                import pyarrow
            except ImportError:
                raise DataError(f"{file.path}: to read .zst, install the extra 'data' (pyarrow).") from None
            # The package zstandard takes half a file, such as a download that broke off leaves, for a whole one.
            stream = pyarrow.CompressedInputStream
            return lambda path: io.BufferedReader(stream(pyarrow.OSFile(str(path)), "zstd")), (OSError,)
        case _:
            return partial(open, mode="rb"), (OSError,)


def _document(file: DataFile, at: int, lines: list[bytes]) -> Located:
    try:
        text = b"".join(lines).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file.path}: not UTF-8 text (byte {at + error.start}). Convert it first.") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip("\n")
    return _located(file, at), {"text": text}


def _object(file: DataFile, at: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        reason = f"not UTF-8 ({error})" if isinstance(error, UnicodeDecodeError) else f"not JSON ({error})"
        raise DataError(f"{file.path}, {_located(file, at)()}: {reason}.") from None
    if not isinstance(value, dict):
        raise DataError(f"{file.path}, {_located(file, at)()}: holds {value!r:.40}; it must be an object.")
    return value


def _located(file: DataFile, at: int) -> Callable[[], str]:
    """The number of the line at a byte; lines are counted when it is asked for, which is for an error."""
    return partial(_line_number, file, at)


def _line_number(file: DataFile, at: int) -> str:
    with open_file(file) as stream:
        blocks = (stream.read(min(_BLOCK, at - start)) for start in range(0, at, _BLOCK))
        return f"line {1 + sum(block.count(NEWLINE) for block in blocks)}"


def _read_line(stream: IO[bytes], longest: int) -> bytes:
    """A line; of one beyond `longest` bytes the beginning, up to a whole character."""
    line = stream.readline(longest)
    while line and not line.endswith(NEWLINE):
        more = stream.peek(1)[:1]  # type: ignore[attr-defined]  # every opener buffers
        if not more or more[0] & 0xC0 != 0x80:  # the end of the file, or of the character
            break
        line += stream.read(1)
    return line


def _cut(stream: IO[bytes], at: int) -> int:
    """The first place from `at` on where a document may begin: behind a blank line, or where there is none within
    LONGEST bytes, at the beginning of a line, or else of a character."""
    stream.seek(at - 1)
    place = line_start = at - 1 + len(_read_line(stream, LONGEST))
    while place < at + LONGEST:
        line = _read_line(stream, LONGEST)
        place += len(line)
        if not line.strip():
            return place
    return line_start
