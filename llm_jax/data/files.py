"""The files of a dataset: a path, a directory, a glob, a list of them -> files, and the parts that they are read in."""

import glob
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_jax.errors import DataError

FileFormat = Literal["text", "jsonl", "json", "parquet", "arrow"]

SUFFIXES: dict[str, FileFormat] = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of a dataset that Hugging Face's library saved to disk


@dataclass(frozen=True)
class DataFile:
    """A file of records.

    Attributes:
        compression: "", ".gz" or ".zst".
    """

    path: Path
    format: FileFormat
    compression: str = ""

    @classmethod
    def of(cls, path: Path) -> "DataFile":
        """By the name; what has no suffix of its own is text."""
        compression = path.suffix if path.suffix in COMPRESSED else ""
        name = Path(path.stem) if compression else path
        return cls(path, SUFFIXES.get(name.suffix.lower(), "text"), compression)

    @property
    def is_stream(self) -> bool:
        """Whether it can be read from its beginning alone."""
        return bool(self.compression) or self.format == "json"


def find_files(paths: str | Path | Iterable[str | Path]) -> list[DataFile]:
    """The files that paths name: files, directories (all files of a known format below them), globs (`**` too), and
    datasets that `datasets` saved to disk. The order is that of the paths, and within each that of the names.

    Raises:
        DataError: a path names nothing.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    return [file for path in paths for file in _expand(str(path))]


def _expand(text: str) -> list[DataFile]:
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_directory(path)
    if path.exists():
        return [DataFile.of(path)]
    found = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if glob.has_magic(str(path)):
        if not found:
            raise DataError(f"{text}: no file has such a name.")
        return [DataFile.of(Path(name)) for name in found]
    if path.parent.is_dir() and (path.parent / _SPLITS).is_file():
        raise DataError(f"{text}: there is no such split. {_splits(path.parent)}")
    raise DataError(f"{text}: there is no such file. Name a file, a directory, or a glob such as data/*.jsonl.")


def _in_directory(path: Path) -> list[DataFile]:
    if (path / _SPLITS).is_file():
        raise DataError(f"{path}: a dataset with several splits. {_splits(path)}")
    if (path / _STATE).is_file():
        try:
            names = [entry["filename"] for entry in json.loads((path / _STATE).read_text("utf-8"))["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path / _STATE}: not as `datasets` writes it ({error!r}). Save the dataset again."
            ) from None
        return [DataFile(path / name, "arrow") for name in names]
    files = [
        DataFile.of(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    known = [file for file in files if Path(file.path.name.removesuffix(file.compression)).suffix.lower() in SUFFIXES]
    if not known:
        raise DataError(
            f"{path}: there is no file in it that ends in {', '.join(SUFFIXES)} (or these with .gz or .zst)."
        )
    return known


def _splits(path: Path) -> str:
    try:
        names = json.loads((path / _SPLITS).read_text("utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    return f"Name one of them: {', '.join(str(path / name) for name in names)}."
