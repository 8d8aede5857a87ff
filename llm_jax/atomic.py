"""Atomic writes of directories and files."""

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
def atomic_directory(target: Path) -> Iterator[Path]:
    """A new temporary directory that replaces `target` when the block ends, and is removed if the block raises.

    The swap is one system call on Linux, so that readers see the old directory or the new one, even after a loss of
    power. Elsewhere an existing target is renamed first, and is missing between the two renames.
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
            old = Path(scratch) / "old"
            target.rename(old)
            try:
                new.rename(target)
            except OSError:
                old.rename(target)
                raise
        _flush(target.parent)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """The path of a temporary file that replaces `target` when the block ends, and is removed if the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new = Path(scratch) / target.name
        yield new
        _flush(new)
        new.replace(target)
        _flush(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two directories in one system call; False where there is none."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0


def _flush(path: Path) -> None:
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
