"""A full disk, said so that a person knows what to do."""

import errno
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
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        raise CheckpointError(
            f"{path}: there is no room on the disk. A save takes about {wanted:,} bytes, and {free:,} are free there "
            "(a quota may allow less). What was saved before is as it was. Make room or lower checkpoint.keep_last_n, "
            "then add --resume; or name another checkpoint_dir."
        ) from error


def is_full(error: BaseException | None) -> bool:
    """True where a disk or a quota is full; safetensors and tensorstore say so in words alone."""
    while error is not None:
        said = re.search(r"os[ _]error(?:_code=')?[ ]?(\d+)", str(error))
        if (isinstance(error, OSError) and error.errno in FULL) or (said and int(said[1]) in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
