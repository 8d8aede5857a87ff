"""The manifest of a directory: what is in it, and a digest of each of its files and of itself."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llm_jax.errors import DamagedCheckpoint

MANIFEST = "manifest.json"
THREADS = 4  # hashing lets go of Python's lock


def write_manifest(directory: Path, contents: dict[str, Any]) -> None:
    """Describe `directory` as it is, beside `contents`; returns once everything in it is on the disk."""
    body = contents | {"files": _describe(directory, flush=True)}
    path = directory / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        json.dump(body | {"sha256": _sha256(body)}, file)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(directory: Path) -> dict[str, Any]:
    """The contents of a directory's manifest, once each file is found to be what was written.

    Raises:
        DamagedCheckpoint: a file is missing, was added or was changed, or the manifest itself is.
    """
    try:
        body = json.loads((directory / MANIFEST).read_bytes())
        matches = body.pop("sha256") == _sha256(body)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{MANIFEST} is missing") from None
    except (ValueError, AttributeError, KeyError, TypeError):
        matches = False
    if not matches:
        raise DamagedCheckpoint(f"{MANIFEST} is not what was written")
    found = _describe(directory)
    for name in sorted(body["files"].keys() | found.keys()):
        if name not in found:
            raise DamagedCheckpoint(f"{name} is missing")
        if found[name] != body["files"].get(name):
            raise DamagedCheckpoint(f"{name} is not what was written")
    return dict(body)


def _describe(directory: Path, *, flush: bool = False) -> dict[str, str]:
    """name -> SHA-256 of every file below `directory` but the manifest."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            if flush:
                os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()

    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip((str(path.relative_to(directory)) for path in files), pool.map(digest, files), strict=True))


def _sha256(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
