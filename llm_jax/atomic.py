"""A directory or a file that appears whole or not at all."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A new directory beside `target` that takes its place when the block ends, and vanishes if the block raises.

    The swap is one system call on Linux, so that a reader, or a machine that loses power, sees the old directory or
    the new one. Elsewhere an existing target is moved aside for the moment between two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new = Path(scratch) / target.name
        new.mkdir()
        yield new
        for file in new.iterdir():
            _flush(file)
        if not target.exists():
            new.rename(target)
        elif not _exchange(new, target):
            aside = Path(scratch) / "old"
            target.rename(aside)
            try:
                new.rename(target)
            except OSError:
                aside.rename(target)
                raise
        _flush(target.parent)


@contextmanager
def file_written_beside(target: Path) -> Iterator[Path]:
    """The path of a new file that takes the place of `target` when the block ends, and vanishes if it raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new = Path(scratch) / target.name
        yield new
        _flush(new)
        new.replace(target)
        _flush(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two directories in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0


def _flush(path: Path) -> None:
    """Waits until the file, or the directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
