"""The static shapes that programs are compiled for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

# Buckets grow by fours: every one is a program to compile before the first request.
CHUNKS = (8, 16, 64, 256)  # a prompt is cut into the largest that fit, and its end is padded to the smallest
SMALLEST_CONTEXT = 128  # attention runs over 128, 512, 2048 … places, up to max_len
SMALLEST_BATCH = 2  # rows are computed by 2, 8, 32 …: XLA's fast bfloat16 and int8 products begin at two rows


@dataclass(frozen=True)
class Buckets:
    """Sizes to which batches, contexts and chunks are rounded up.

    Attributes:
        chunks: ascending; one that holds everything where a prompt must not be cut.
        is_exact: attention reads what each row holds, whatever the context of its program; so one context will do.
    """

    max_batch: int
    max_len: int
    chunks: tuple[int, ...] = CHUNKS
    is_exact: bool = False

    def batch(self, rows: int) -> int:
        return min(_round_up(rows, SMALLEST_BATCH), self.max_batch)

    def context(self, tokens: int) -> int:
        return min(_round_up(tokens, SMALLEST_CONTEXT), self.max_len)

    def program_context(self, tokens: int) -> int:
        return self.max_len if self.is_exact else self.context(tokens)

    def chunk(self, tokens: int, largest: int) -> int:
        """The size that the next piece of a prompt is cut or padded to, at most `largest`."""
        return max((n for n in self.chunks if n <= min(tokens, largest)), default=self.chunks[0])

    def all_batches(self) -> list[int]:
        return sorted({self.batch(n) for n in range(1, self.max_batch + 1)})

    def all_decodes(self) -> list[tuple[int, int]]:
        """Every (batch, context) that some step needs."""
        contexts = {self.program_context(n) for n in range(1, self.max_len + 1)}
        return sorted(product(self.all_batches(), contexts))

    def all_prefills(self) -> Iterator[tuple[int, int]]:
        """Every (chunk, context) that some prompt needs."""
        starts = range(0, self.max_len, self.chunks[0])
        yield from sorted({(n, self.context(start + n)) for start in starts for n in self.chunks})


def _round_up(n: int, smallest: int) -> int:
    """The least of smallest, 4 · smallest, 16 · smallest … that is at least n."""
    bucket = smallest
    while bucket < n:
        bucket *= 4
    return bucket
