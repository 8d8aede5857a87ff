"""The content of a GGUF file: metadata, and tensors as views of the mapped file.

Every count, length and offset is checked against the bytes that are left before it is used, so that a damaged or
hostile file costs no more memory than its own size, and its error names the place. The gguf library's reader takes
seconds for the lists of a tokenizer, and trusts the counts of the file.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.checkpoint.formats.gguf.types import TYPES, GGMLType
from llm_jax.checkpoint.recognise import GGUF_MAGIC
from llm_jax.checkpoint.tensors import Shape
from llm_jax.errors import CheckpointError
from llm_jax.memory import map_file

VERSIONS = (2, 3)
ALIGNMENT, DEFAULT_ALIGNMENT = "general.alignment", 32
SPLIT_COUNT, SPLIT_NUMBER, SPLIT_TENSORS = "split.count", "split.no", "split.tensors.count"
# llama.cpp splits a large file into parts: metadata in the first, tensors in all.
PART = re.compile(r"^(.*)-\d{5}-of-(\d{5})\.gguf$")

MAX_AXES = 4
LONGEST_NAME = 65535  # bytes of a key
SMALLEST_ENTRY, SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8  # bytes of an entry of metadata and of the tensor table

# The types of metadata by their number: scalars with their layout; then strings and arrays.
SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """A tensor where it lies.

    Attributes:
        shape: rows first (a file counts axes from the last).
        data: its bytes, uint8 and read-only, a view of the mapped file.
    """

    type: GGMLType
    shape: Shape
    data: np.ndarray


@dataclass(frozen=True)
class Content:
    """What a file holds, or all parts of one that is split.

    Attributes:
        metadata: numbers, booleans, strings; lists of strings; arrays of numbers, which are views of the mapped file.
    """

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_content(path: Path) -> Content:
    """The content of a file, and of the other parts where it is one of several.

    Raises:
        CheckpointError: it is damaged, cut short or contradicts itself, or a part is missing.
    """
    path = part_of(path, 1)
    content = _read_file(path)
    count = content.metadata.get(SPLIT_COUNT, 1)
    if not _is_count(count) or count < 1:
        raise CheckpointError(f"{path} says {SPLIT_COUNT} = {count!r}, which is no number of parts.")
    for number in range(2, count + 1):
        part = part_of(path, number)
        if part == path or not part.is_file():
            raise CheckpointError(
                f"{path} is part 1 of {count}, and part {number} is missing: put {part.name} beside it."
            )
        more = _read_file(part)
        if more.metadata.get(SPLIT_NUMBER) != number - 1 or not content.tensors.keys().isdisjoint(more.tensors):
            raise CheckpointError(
                f"{part} is not part {number} of {path}, as its name says. Copy or download it again."
            )
        content.tensors.update(more.tensors)
    expected = content.metadata.get(SPLIT_TENSORS, len(content.tensors))
    if not _is_count(expected) or expected != len(content.tensors):
        raise CheckpointError(f"{path} and its other parts hold {len(content.tensors)} tensors of {expected!r}.")
    return content


def part_of(path: Path, number: int) -> Path:
    """The path of that part, counted from 1, of a file in parts; of another file, its own."""
    return path.with_name(PART.sub(lambda name: f"{name[1]}-{number:05d}-of-{name[2]}.gguf", path.name))


def _read_file(path: Path) -> Content:
    try:
        data: bytes | mmap.mmap = map_file(path)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    return _Parser(path, data).content()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Parser:
    """Reads a mapped file from its beginning; `at` is the offset of what is read next."""

    def __init__(self, path: Path, data: bytes | mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self.reading = "the header"

    def content(self) -> Content:
        if self.take(4) != GGUF_MAGIC:
            raise self.error("it does not begin as a GGUF file does")
        version = self.number("<I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            raise self.error(
                "it is of a big-endian machine" if swapped else f"it is of version {version}; 2 and 3 can be read"
            )
        tensors = self.count("tensors", SMALLEST_TENSOR)
        entries = self.count("entries of metadata", SMALLEST_ENTRY)
        metadata: dict[str, Any] = {}
        for index in range(entries):
            self.reading = f"the name of metadata entry {index}"
            name = self.string(longest=LONGEST_NAME)
            self.reading = f"the metadata entry {name!r}"
            if name in metadata:
                raise self.error("it is there twice")
            metadata[name] = self.value(self.number("<I"))
        return Content(metadata, self.tensors(tensors, metadata))

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is damaged or cut short, at byte {self.at}, in {self.reading}: {what}. "
            "Copy or download it again."
        )

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self.data) - self.at:
            raise self.error(f"{size} bytes are expected, and {len(self.data) - self.at} follow")
        start, self.at = self.at, self.at + size
        return self.data[start : self.at]

    def number(self, layout: str) -> Any:
        if layout == "?":  # struct takes any byte but 0 for true
            byte = self.take(1)[0]
            if byte > 1:
                raise self.error(f"a boolean is {byte}")
            return bool(byte)
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def count(self, what: str, smallest: int) -> int:
        """A number of things, of which each takes at least `smallest` bytes."""
        count: int = self.number("<Q")
        if count > (len(self.data) - self.at) // smallest:
            raise self.error(f"{count} {what} are announced, and {len(self.data) - self.at} bytes follow")
        return count

    def string(self, longest: int | None = None) -> str:
        size = self.number("<Q")
        if longest is not None and size > longest:
            raise self.error(f"a name of {size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"a text is not UTF-8 ({error})") from error

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("<I"))
        raise self.error(f"a value of type {kind}, which is unknown")

    def array(self, kind: int) -> Any:
        """A list of strings, or an array of numbers."""
        if kind == STRING:
            return self.strings(self.count("strings", 8))
        if kind not in SCALARS:
            raise self.error(f"an array of type {kind}, which is {'nested' if kind == ARRAY else 'unknown'}")
        dtype = np.dtype(SCALARS[kind] if SCALARS[kind] != "?" else "u1")
        count = self.count("numbers", dtype.itemsize)
        numbers = np.frombuffer(self.data, dtype, count, self.at) if count else np.zeros(0, dtype)
        self.at += numbers.nbytes
        if SCALARS[kind] != "?":
            return numbers
        if (numbers > 1).any():
            raise self.error("an array of booleans holds other bytes than 0 and 1")
        return numbers.view(np.bool_)

    def strings(self, count: int) -> list[str]:
        """A tokenizer has hundreds of thousands: the same as `string`, without a call for each."""
        texts: list[str] = []
        data, at, end = self.data, self.at, len(self.data)
        append, size_of = texts.append, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                start = at + 8
                at = start + size_of(data, at)[0]
                if at > end:
                    self.at = start
                    raise self.error(f"{at - start} bytes are expected, and {end - start} follow")
                append(data[start:at].decode())
        except struct.error:
            self.at = at
            raise self.error("the length of a text is missing") from None
        except UnicodeDecodeError as error:
            self.at = start
            raise self.error(f"a text is not UTF-8 ({error})") from error
        self.at = at
        return texts

    def tensors(self, count: int, metadata: dict[str, Any]) -> dict[str, StoredTensor]:
        infos: dict[str, tuple[GGMLType, Shape, int]] = {}
        for index in range(count):
            self.reading = f"the name of tensor {index}"
            name = self.string(longest=LONGEST_NAME)
            self.reading = f"the tensor {name}"
            if name in infos:
                raise self.error("it is there twice")
            infos[name] = self.tensor_info()
        alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
        self.reading = "the tensors"
        if not _is_count(alignment) or alignment < 1 or alignment & (alignment - 1):
            raise self.error(f"{ALIGNMENT} is {alignment!r}, which is no power of two")
        begin = -(-self.at // alignment) * alignment
        taken: list[tuple[int, int, str]] = []
        whole = np.frombuffer(self.data, np.uint8)
        tensors: dict[str, StoredTensor] = {}
        for name, (type_, shape, offset) in infos.items():
            self.reading = f"the tensor {name}"
            start, size = begin + offset, prod(shape) // type_.values * type_.bytes
            if offset % alignment:
                raise self.error(f"its offset {offset} is no multiple of {alignment}")
            if start + size > len(self.data):
                raise self.error(f"its {size} bytes at {start} end beyond the file's {len(self.data)}")
            taken.append((start, start + size, name))
            tensors[name] = StoredTensor(type_, shape, whole[start : start + size])
        taken.sort()
        for (_, end, name), (start, _, other) in pairwise(taken):
            if start < end:
                self.reading = f"the tensor {other}"
                raise self.error(f"it overlaps {name}")
        return tensors

    def tensor_info(self) -> tuple[GGMLType, Shape, int]:
        """Type, shape and offset."""
        axes = self.number("<I")
        if not 1 <= axes <= MAX_AXES:
            raise self.error(f"it has {axes} axes; 1 to {MAX_AXES} are possible")
        shape = tuple(self.number("<Q") for _ in range(axes))[::-1]
        number = self.number("<I")
        type_ = TYPES.get(number)
        if type_ is None:
            raise self.error(f"it is of type {number}, which is unknown")
        values = prod(shape)
        if values == 0 or values // type_.values > len(self.data):
            raise self.error(f"its shape is {list(shape)}")
        if shape[-1] % type_.values:
            raise self.error(f"its rows of {shape[-1]} values are no whole blocks of {type_.name} ({type_.values})")
        return type_, shape, self.number("<Q")
