"""The static shapes that programs are compiled for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# Few buckets: every one is a program to compile before the first request.
CHUNKS = (8, 16, 64, 256)  # tokens of a prompt in one run of the model
SIZES = (1, 4, 8, 16, 32, 64, 256)  # tokens of all rows in a ragged run
LEAST_ROOM = 8  # tokens of prompts in a ragged run that has any
DRAFT = 7  # guesses of one run; eight positions cost little more than one
SMALLEST_CONTEXT = 128  # attention runs over 128, 512, 2048 … places, up to max_len
XLA_BATCH = 2  # by XLA rows are computed by 2, 8, 32 …: its fast bfloat16 and int8 products begin at two rows


class Shape(NamedTuple):
    """The static side of one run of the model.

    Attributes:
        batch, length: of its tokens [batch, length].
        rows: whose tokens these are: one row's each, or, in a batch of one, those of all rows in turn.
        draft: how many guesses a row may have.
        context: places that attention may run over.
        is_anywhere: its one row may be any of the cache; else its rows are the first ones.
    """

    batch: int
    length: int
    rows: int
    draft: int
    context: int
    is_anywhere: bool = False


@dataclass(frozen=True)
class Buckets:
    """Sizes to which batches, contexts and numbers of tokens are rounded up.

    Attributes:
        draft: guesses that a run may check for the row that is alone in it; 0: none.
        chunks: ascending; one that holds everything where a prompt must not be cut.
        is_ragged: attention takes rows with different numbers of tokens, and reads what each one holds. Then one run
            serves all rows, those at their prompts and those at their next tokens, and reads the weights once.
    """

    max_batch: int
    max_len: int
    draft: int = 0
    chunks: tuple[int, ...] = CHUNKS
    is_ragged: bool = False

    def rooms(self, beside: int) -> list[int]:
        """How many tokens of prompts a step may have beside so many of rows that are past theirs."""
        return [n - beside for n in self.sizes if n - beside >= LEAST_ROOM] if self.is_ragged else list(self.chunks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many tokens a ragged run may have; the largest has room for a prompt beside all rows."""
        sizes: tuple[int, ...] = SIZES
        while sizes[-1] < self.max_batch + LEAST_ROOM:
            sizes = (*sizes, 4 * sizes[-1])
        return sizes

    @property
    def longest(self) -> int:
        """The most tokens that a run may add to a row."""
        return (self.sizes if self.is_ragged else self.chunks)[-1]

    def batch(self, rows: int) -> int:
        return min(_round_up(rows, 1 if self.is_ragged else XLA_BATCH), self.max_batch)

    def context(self, tokens: int) -> int:
        return min(_round_up(tokens, SMALLEST_CONTEXT), self.max_len)

    def program_context(self, context: int) -> int:
        """What a program is compiled for: where attention reads what each row holds, one context will do."""
        return self.max_len if self.is_ragged else context

    def ragged(self, tokens: int, end: int) -> Shape:
        """One run for all rows, with so many tokens, the last of them before position `end`."""
        size = next(n for n in self.sizes if n >= tokens)
        return Shape(1, size, self.max_batch, 0, self.context(end))

    def prompt(self, tokens: int, end: int) -> Shape:
        """A run for a piece of one row's prompt."""
        return Shape(1, next(n for n in self.chunks if n >= tokens), 1, 0, self.context(end), is_anywhere=True)

    def decode(self, rows: int, end: int) -> Shape:
        """A run for the next tokens of the first `rows` rows."""
        batch = self.batch(rows)
        return Shape(batch, 1, batch, 0, self.context(end))

    def check(self, end: int) -> Shape:
        """A run for the next token of row 0, and for guesses of what follows."""
        return Shape(1, 1 + self.draft, 1, self.draft, self.context(end))

    def all_batches(self) -> list[int]:
        return sorted({self.batch(n) for n in range(1, self.max_batch + 1)})

    def asked(self, shape: Shape, rows: int) -> int:
        """Of how many rows of a run tokens are chosen, where the first `rows` want some."""
        return min(shape.rows, self.batch(rows)) if self.is_ragged else shape.rows

    def all_shapes(self) -> Iterator[Shape]:
        """Every shape that some run needs."""
        for end in sorted({self.context(n) for n in range(1, self.max_len + 1)}):
            if self.is_ragged:
                yield from (self.ragged(n, end) for n in self.sizes)
            else:
                yield from (self.prompt(n, end) for n in self.chunks)
                yield from (self.decode(n, end) for n in self.all_batches())
            if self.draft:
                yield self.check(end)


def _round_up(n: int, smallest: int) -> int:
    """The least of smallest, 4 · smallest, 16 · smallest … that is at least n."""
    bucket = smallest
    while bucket < n:
        bucket *= 4
    return bucket
