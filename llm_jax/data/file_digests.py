"""Digests of the contents of files, remembered until a file changes."""

import json
import os
from hashlib import file_digest
from pathlib import Path

from llm_jax.atomic import atomic_file

_NAME = "digests.json"


class FileDigests:
    """What files hold, as digests. A file whose size, times and inode are as they were is not read again.

    Args:
        directory: where they are remembered.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / _NAME
        try:
            self._known: dict[str, list[str | int]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def of(self, path: Path) -> str:
        """The digest of a file's content."""
        name, stat = str(path.resolve()), path.stat()
        # The last is set by the system alone, so that a file with an old time of change is noticed too.
        state = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self._known.get(name)
        if known is None or known[1:] != state:
            with path.open("rb") as stream:
                known = [file_digest(stream, "blake2b").hexdigest()[:32], *state]
            self._known[name] = known
            self._changed = True
        return str(known[0])

    def save(self) -> None:
        """Remember them."""
        if self._changed and os.access(self._file.parent, os.W_OK):
            with atomic_file(self._file) as new:
                new.write_text(json.dumps(self._known), encoding="utf-8")
