"""A full disk, said so that a person knows what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_jax.errors import CheckpointError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk_explained(path: Path, wanted: int) -> Iterator[None]:
    """Says what is needed, where the block finds a disk or a quota full.

    Args:
        path: what is written.
        wanted: bytes, about.

    Raises:
        CheckpointError: there is no room.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise CheckpointError(
            f"{path}: the disk is full. A save takes about {wanted:,} bytes, and {free(path):,} are free there "
            "(a quota may allow less). What was saved before is as it was. Delete something or lower "
            "checkpoint.keep_last_n, then add --resume; or name another checkpoint_dir."
        ) from error


def check_free(path: Path, wanted: int) -> None:
    """Raises OSError where a disk has fewer free bytes. What fills a disk within orbax also prints a traceback."""
    if free(path) < wanted:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def free(path: Path) -> int:
    """The free bytes of the disk that a path is on, or would be."""
    return shutil.disk_usage(next(parent for parent in (path, *path.absolute().parents) if parent.exists())).free


def is_full(error: BaseException | None) -> bool:
    """True where a disk or a quota is full; safetensors and tensorstore say so in words alone."""
    while error is not None:
        said = re.search(r"os[ _]error(?:_code=')?[ ]?(\d+)", str(error))
        if (isinstance(error, OSError) and error.errno in FULL) or (said and int(said[1]) in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
