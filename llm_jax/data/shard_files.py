"""Shards on disk: flat arrays that are mapped into memory."""

import json
import os
import weakref
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.data.sequences import Shard
from llm_jax.errors import DataError

VERSION = 1
INFO = "shard.json"
_ARRAYS = {"tokens": None, "ends": np.int64, "sizes": np.int64, "learnt": np.uint8}  # the tokens' dtype varies


class Lease:
    """Marks a shard as used now, and as in use for as long as this lives.

    Args:
        info: the description of the shard, which is locked.
    """

    def __init__(self, info: Path) -> None:
        with suppress(OSError):  # a folder that is only read
            os.utime(info)
        file = os.open(info, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        with suppress(ImportError, OSError):  # not a Unix; a file system without locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_SH)


def write_shard(directory: Path, parts: Iterable[Shard], described: dict[str, Any]) -> None:
    """Write parts behind one another into an existing directory, as they come.

    Args:
        described: what the shard was made from, for whoever looks at it.
    """
    digest, count, sequences, dtype, marked = blake2b(digest_size=16), 0, 0, np.dtype(np.uint16), False
    with ExitStack() as stack:
        files = {name: stack.enter_context((directory / name).open("wb")) for name in _ARRAYS}
        for part in parts:
            dtype, learnt = part.tokens.dtype, part.learnt
            part.tokens.tofile(files["tokens"])
            (part.ends + count).tofile(files["ends"])
            part.sizes.tofile(files["sizes"])
            if learnt is not None and not marked:
                marked = True
                np.ones(count, np.uint8).tofile(files["learnt"])
            if marked:
                (np.ones(len(part.tokens), np.uint8) if learnt is None else learnt).tofile(files["learnt"])
            digest.update(part.digest.encode())
            count, sequences = count + len(part.tokens), sequences + len(part.ends)
    info = {"version": VERSION, "tokens": count, "sequences": sequences, "dtype": dtype.name, "marked": marked}
    text = json.dumps({**info, "digest": digest.hexdigest(), **described}, indent=1)
    (directory / INFO).write_text(text, encoding="utf-8")


def open_shard(directory: Path) -> Shard:
    """The arrays of a shard, mapped. It counts as in use until the last part of it is gone, see `shard_cache.py`.

    Raises:
        DataError: a file is missing, or of another size than its description says.
    """
    try:
        lease = Lease(directory / INFO)
        info = json.loads((directory / INFO).read_text(encoding="utf-8"))
        lengths = {"tokens": info["tokens"], "ends": info["sequences"], "sizes": info["sequences"]}
        lengths["learnt"] = info["tokens"] if info["marked"] else 0
        arrays = {
            name: _map(directory / name, np.dtype(dtype or info["dtype"]), lengths[name])
            for name, dtype in _ARRAYS.items()
        }
        learnt = arrays["learnt"] if info["marked"] else None
        return Shard(arrays["tokens"], arrays["ends"], arrays["sizes"], learnt, info["digest"], lease)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{directory}: a damaged shard of tokens ({error}). Remove it; it will be made again."
        ) from None


def _map(path: Path, dtype: np.dtype[Any], length: int) -> np.ndarray:
    size = path.stat().st_size
    if size != length * dtype.itemsize:
        raise ValueError(f"{path.name} has {size} bytes, not {length * dtype.itemsize}")
    return np.memmap(path, dtype, "r") if length else np.zeros(0, dtype)
