"""Datasets -> token sequences, made once and stored as shards."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from llm_jax.atomic import atomic_directory
from llm_jax.data.file_digests import FileDigests
from llm_jax.data.files import DataFile, find_files
from llm_jax.data.lines import Located
from llm_jax.data.reading import cut_into_parts, read_fields
from llm_jax.data.records import Form
from llm_jax.data.sequences import Shard, TokenSequences
from llm_jax.data.shard_cache import cache_directory, nothing_removed, remove_shards
from llm_jax.data.shard_files import VERSION, open_shard, write_shard
from llm_jax.data.tokenising import Encoder, Work, tokenise
from llm_jax.errors import DataError
from llm_jax.tokenizers import Tokenizer, fingerprint

SHARD = 1 << 28  # bytes of small files that share a shard
_RECORDS, _CHARACTERS = 1 << 10, 1 << 22  # that are handed to a process at once, where they are read here


class Watcher(Protocol):
    """Is told how far the tokenising has come."""

    def begin(self, nbytes: int) -> None:
        """So many bytes of files are to be tokenised; it is not called where all shards are there."""

    def advance(self, nbytes: int, tokens: int) -> None:
        """So many more bytes are done, and gave so many tokens."""

    def end(self) -> None:
        """All is done, or has failed."""


def prepare(
    paths: str | Path | Iterable[str | Path],
    tokenizer: Tokenizer,
    form: Form,
    *,
    cache: str | Path | None = None,
    limit: float = math.inf,
    watcher: Watcher | None = None,
) -> TokenSequences:
    """The tokens of a dataset: files, directories, globs, or a list of them.

    They are made on all cores, stored as shards, and read from there the next time. A shard is named by what its files
    hold, by the tokenizer and by the form, so that it is made again where one of these has changed.

    Args:
        form: what is learnt of a record: all of its text, the assistant's answers, or which of two answers is better.
        cache: where shards are stored; `cache_directory()` unless given.
        limit: bytes of shards in it. Where new ones are made and there are more, those that were not used for longest
            are removed; none that a running process uses.

    Raises:
        DataError: a path names nothing, a record is not as it should be, or the disk is full.
    """
    cache = cache_directory() if cache is None else Path(cache).expanduser()
    encoder, identity = Encoder(tokenizer, form), fingerprint(tokenizer)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        digests = FileDigests(cache)
        groups = [
            (files, _key([digests.of(file.path) for file in files], files, identity, form))
            for files in _groups(find_files(paths))
        ]
        digests.save()
        with nothing_removed(cache):
            missing = [(files, cache / key) for files, key in groups if not (cache / key).is_dir()]
            if missing:
                _make(missing, encoder, watcher)
            shards = tuple(open_shard(cache / key) for _, key in groups)
        if missing:
            remove_shards(cache, limit)
    except OSError as error:
        raise DataError(_explain(error, cache)) from None
    if not any(len(shard.ends) for shard in shards):
        raise DataError(f"{_named(paths)}: there is no text in it.")
    return TokenSequences(shards)


def dataset_digest(paths: str | Path | Iterable[str | Path], *, cache: str | Path | None = None) -> str:
    """What the files of a dataset hold, and in which order: the same for the same content alone."""
    cache = cache_directory() if cache is None else Path(cache).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    digests = FileDigests(cache)
    found = [digests.of(file.path) for file in find_files(paths)]
    digests.save()
    return blake2b("".join(found).encode(), digest_size=16).hexdigest()


def _groups(files: list[DataFile]) -> Iterator[list[DataFile]]:
    """Neighbouring files that share a shard: many small ones, or one large one."""
    group: list[DataFile] = []
    size = 0
    for file in files:
        nbytes = file.path.stat().st_size
        if group and size + nbytes > SHARD:
            yield group
            group, size = [], 0
        group.append(file)
        size += nbytes
    if group:
        yield group


def _key(digests: list[str], files: list[DataFile], tokenizer: str, form: Form) -> str:
    formats = [[file.format, file.compression] for file in files]
    content = json.dumps([VERSION, digests, formats, tokenizer, form])
    return blake2b(content.encode(), digest_size=16).hexdigest()


def _make(missing: list[tuple[list[DataFile], Path]], encoder: Encoder, watcher: Watcher | None) -> None:
    total = sum(file.path.stat().st_size for files, _ in missing for file in files)
    if watcher is not None:
        watcher.begin(total)
    try:
        for files, target in missing:
            with _alone(target.parent):
                if not target.is_dir():  # else another process has made it meanwhile
                    described = {"files": [str(file.path) for file in files], "form": encoder.form}
                    with atomic_directory(target) as new:
                        write_shard(new, _tokens(files, encoder, total, watcher), described)
    finally:
        if watcher is not None:
            watcher.end()


def _tokens(files: list[DataFile], encoder: Encoder, total: int, watcher: Watcher | None) -> Iterator[Shard]:
    for piece, shard in tokenise(encoder, (piece for file in files for piece in _work(file)), total):
        if watcher is not None:
            watcher.advance(piece.nbytes, len(shard.tokens))
        yield shard


def _work(file: DataFile) -> Iterator[Work]:
    """Parts that a process reads by itself; of a file that is read from its beginning alone, some records at a time."""
    size, parts = file.path.stat().st_size, cut_into_parts(file)
    if not file.is_stream:
        yield from (Work(part, size // len(parts)) for part in parts)
        return
    records: list[Located] = []
    characters = 0
    for where, fields in read_fields(parts[0]):
        records.append((where, fields))
        characters += len(fields.get("text") or "")
        if len(records) >= _RECORDS or characters >= _CHARACTERS:
            yield Work(parts[0], 0, tuple(records))
            records, characters = [], 0
    yield Work(parts[0], size, tuple(records))


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """No other process makes shards meanwhile; what a killed one left behind goes."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        yield
        return
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, by whatever ends the process
        for left in cache.glob(".*/"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _explain(error: OSError, cache: Path) -> str:
    import errno

    if error.errno != errno.ENOSPC:
        return f"{error.filename or cache}: {error.strerror or error}. Choose another place with data.cache_dir."
    free = shutil.disk_usage(cache).free
    return (
        f"{cache}: the disk is full ({free / 1e6:,.0f} MB free). Tokens take two to four bytes each: make space, or "
        "choose another place with data.cache_dir."
    )


def _named(paths: str | Path | Iterable[str | Path]) -> str:
    return str(paths) if isinstance(paths, str | Path) else ", ".join(map(str, paths))
