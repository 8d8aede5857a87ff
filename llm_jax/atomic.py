"""Atomic writes of directories and files."""

import ctypes
import glob
import os
import shutil
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
        replace_directory(new, target)


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


def replace_directory(new: Path, target: Path) -> None:
    """Give a complete directory its name, and remove what had it before. Both are in one file system.

    One system call does it on Linux (see `atomic_directory`).
    """
    if not target.exists():
        new.rename(target)
    elif _exchange(new, target):
        shutil.rmtree(new)
    else:
        old = new.with_name(f"{new.name}.old")
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old)
    _flush(target.parent)


def sweep(target: Path) -> None:
    """Remove what killed processes have left beside `target` in `atomic_directory` or `atomic_file`.

    Call it where no other process writes there.
    """
    for path in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        shutil.rmtree(path, ignore_errors=True)


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
