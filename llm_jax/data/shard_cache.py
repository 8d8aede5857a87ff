"""The folder of shards: which there are, which are in use, and which go where there are too many."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llm_jax.data.shard_files import INFO

LIMIT = "100GB"
_LOCK = "removal"  # held shared while shards are looked for and opened, exclusively while some are removed


@dataclass(frozen=True)
class StoredShard:
    """A shard on disk.

    Attributes:
        files: what it was made of.
        used: when it was last opened, in seconds since 1970.
        in_use: whether a running process has it open.
    """

    path: Path
    nbytes: int
    tokens: int
    sequences: int
    form: str
    files: tuple[str, ...]
    used: float
    in_use: bool


def cache_directory() -> Path:
    """Where shards are stored unless another place is named: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm" / "data"


def stored_shards(cache: Path) -> list[StoredShard]:
    """All shards in a folder, the most recently used first; damaged ones too."""
    found = []
    for info in cache.glob(f"[!.]*/{INFO}"):
        with suppress(FileNotFoundError):  # another process removes it
            found.append(_described(info))
    return sorted(found, key=lambda shard: -shard.used)


def remove_shards(cache: Path, limit: float) -> list[StoredShard]:
    """Remove the least recently used shards until the others have at most `limit` bytes; return what was removed.

    One that a running process has open stays, however old. While another process looks for shards nothing is removed.
    """
    removed, left = [], 0.0
    with _locked(cache, exclusive=True) as alone:
        for shard in stored_shards(cache) if alone else ():
            if left + shard.nbytes > limit and not shard.in_use:
                gone = shard.path.with_name(f".{shard.path.name}.removed")  # hidden at once, as a whole
                shard.path.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
                removed.append(shard)
            else:
                left += shard.nbytes
    return removed


@contextmanager
def nothing_removed(cache: Path) -> Iterator[None]:
    """No process removes shards meanwhile."""
    with _locked(cache, exclusive=False):
        yield


@contextmanager
def _locked(cache: Path, *, exclusive: bool) -> Iterator[bool]:
    """Whether the lock was had; without waiting where it is exclusive. A folder that cannot be written needs none."""
    try:
        import fcntl

        lock: IO[Any] = (cache / _LOCK).open("a")
    except (ImportError, OSError):  # not a Unix; a folder that is only read
        yield not exclusive
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except OSError:
            yield False
            return
        yield True


def _described(info: Path) -> StoredShard:
    try:
        described = json.loads(info.read_text(encoding="utf-8"))
    except ValueError:
        described = {}
    return StoredShard(
        path=info.parent,
        nbytes=sum(file.stat().st_size for file in info.parent.iterdir()),
        tokens=described.get("tokens", 0),
        sequences=described.get("sequences", 0),
        form=described.get("form", "damaged"),
        files=tuple(described.get("files", ())),
        used=info.stat().st_mtime,
        in_use=_is_in_use(info),
    )


def _is_in_use(info: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # not a Unix, where an open file cannot be removed
        return False
    with info.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
