"""Parts of a dataset -> tokens, in this process or in one for each core."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np

from llm_jax.data.encoding import Encoded, encode_record, encode_texts
from llm_jax.data.lines import Located
from llm_jax.data.messages import FieldError
from llm_jax.data.reading import Part, parse, read_fields
from llm_jax.data.records import Form
from llm_jax.data.sequences import Shard
from llm_jax.errors import DataError, TokenizerError
from llm_jax.tokenizers import Tokenizer

SMALL = 1 << 22  # bytes of a dataset that is tokenised here: processes take a second to start
_DOCUMENTS = 1 << 10  # that are tokenised together
_AHEAD = 2  # parts for each process that wait to be read or to be written


@dataclass(frozen=True)
class Work:
    """What is tokenised at once: a part of a file, or records of one that cannot be read from the middle.

    Attributes:
        records: read here already; None where the part is to be read.
        nbytes: of the file, about.
    """

    part: Part
    nbytes: int
    records: tuple[Located, ...] | None = None


@dataclass(frozen=True)
class Encoder:
    """What a tokenizer makes of records of a form; picklable."""

    tokenizer: Tokenizer
    form: Form

    @property
    def dtype(self) -> type[np.integer]:
        """Of the tokens, as narrow as the vocabulary allows."""
        return np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32

    def __call__(self, work: Work) -> Shard:
        """The tokens of a part.

        Raises:
            DataError: naming the file, the line or row, and the field.
        """
        located = read_fields(work.part) if work.records is None else work.records
        return Shard.of(self._encode(work.part, located), self.dtype)

    def _encode(self, part: Part, located: Iterable[Located]) -> Iterator[Encoded]:
        texts: list[str] = []  # documents in a row, which are faster together
        try:
            for where, fields in located:
                record = parse(part, where, fields, self.form)
                if isinstance(record, str):
                    texts.append(record)
                    if len(texts) == _DOCUMENTS:
                        yield from encode_texts(self.tokenizer, texts)
                        texts = []
                    continue
                yield from encode_texts(self.tokenizer, texts)
                texts = []
                try:
                    yield from encode_record(self.tokenizer, record, self.form)
                except (FieldError, TokenizerError) as error:
                    raise DataError(f"{part.file.path}, {where()}: {error}") from None
            yield from encode_texts(self.tokenizer, texts)
        except TokenizerError as error:
            raise DataError(f"{part.file.path}: {error}") from None


def tokenise(encoder: Encoder, work: Iterable[Work], nbytes: int) -> Iterator[tuple[Work, Shard]]:
    """The tokens of each piece of work, in its order.

    Args:
        nbytes: of all work; little is done in this process.
    """
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if nbytes < SMALL or processes == 1:
        yield from ((piece, encoder(piece)) for piece in work)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads may hang
    pool = ProcessPoolExecutor(processes, context, _begin, (encoder,))
    try:
        pieces, waiting = iter(work), deque[tuple[Work, Future[Shard]]]()
        while True:
            for piece in islice(pieces, processes * _AHEAD - len(waiting)):
                waiting.append((piece, pool.submit(_run, piece)))
            if not waiting:
                return
            piece, result = waiting.popleft()
            yield piece, result.result()
    except BrokenProcessPool:
        raise DataError("A process that made tokens was killed, for want of memory perhaps. Start again.") from None
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: Encoder  # of a process of the pool


def _begin(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has a core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of a pool would wait for ever where the main one was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: Work) -> Shard:
    return _encoder(work)
