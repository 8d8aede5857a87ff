"""A step's work: one chunk of each sequence, cut into forward passes of static shapes.

Programs are compiled per shape before the first request, so numbers of tokens, sequences and positions are rounded up
to a few sizes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LAST_TOKEN = -1  # stands for the token that a sequence sampled last, which only the device may know yet

MIN_PREFILL = 4  # prompt tokens that a step takes at least
CHUNKS = (8, 16, 64, 256)  # prompt tokens of a forward pass for one sequence (XLA); a smaller one is hardly faster
DECODE_STEPS = 4  # of one call, at most; more are hardly faster
DRAFT_TOKENS = 7  # per forward pass: on a CPU, eight positions cost little more than one
_RAGGED_SIZES = (1, 4, 8, 16, 32, 64, 256)  # tokens of all sequences in a ragged forward pass
_GROWTH = 4  # from a context size to the next, and XLA's batch: few sizes are few programs to compile at the start
_MIN_CONTEXT = 128  # positions: the smallest context that attention runs over
_MIN_XLA_BATCH = 2  # XLA's fast bfloat16 and int8 products on a CPU begin at two rows


@dataclass(frozen=True)
class Chunk:
    """The tokens of one sequence that a step computes.

    Attributes:
        slot: of the sequence.
        start: position of the first token.
        tokens: ids or LAST_TOKEN. The last `draft_count` of them are draft tokens.
        is_sampled: a token is sampled behind the last token that is no draft, and behind each accepted draft token.
        steps: how many tokens are decoded in turn, by one program (`decode`); then LAST_TOKEN is the only one of
            `tokens`. 0 where the pass and the sampling behind it are programs of their own.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    draft_count: int = 0
    is_sampled: bool = True
    steps: int = 0

    @property
    def length(self) -> int:
        """Positions that it adds to its sequence, draft tokens included."""
        return max(len(self.tokens), self.steps)

    @property
    def end(self) -> int:
        return self.start + self.length


class PassShape(NamedTuple):
    """The static sizes of a forward pass.

    Attributes:
        batch, length: its tokens are [batch, length].
        sequences: one per batch entry; in a ragged pass, whose batch is 1, any number, one behind the other.
        draft: draft tokens that a sequence may have.
        context: positions that attention may run over.
    """

    batch: int
    length: int
    sequences: int
    draft: int
    context: int

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def holds(self, other: "PassShape") -> bool:
        """Whether what fits the other fits this one too."""
        return (
            self.draft == other.draft
            and (self.batch >= self.sequences) == (other.batch >= other.sequences)
            and all(mine >= its for mine, its in zip(self, other, strict=True))
        )


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of the model over the chunks of some sequences.

    Attributes:
        chunks: those behind which a token is sampled come first.
    """

    shape: PassShape
    chunks: Sequence[Chunk] = ()

    @property
    def steps(self) -> int:
        """Those of its chunks, which are the same."""
        return self.chunks[0].steps if self.chunks else 0

    @property
    def sampled(self) -> int:
        """Behind how many of its chunks a token is sampled."""
        return sum(chunk.is_sampled for chunk in self.chunks)

    @property
    def pairs(self) -> int:
        """The pairs of a token and one before it that attention is computed over, roughly."""
        return sum(len(chunk.tokens) * chunk.end for chunk in self.chunks)

    @property
    def first_rows(self) -> list[int]:
        """The place of each chunk's first token among the pass's tokens."""
        if self.shape.batch < self.shape.sequences:  # ragged: one behind the other
            return [0, *itertools.accumulate(len(chunk.tokens) for chunk in self.chunks[:-1])][: len(self.chunks)]
        return [index * self.shape.length for index in range(len(self.chunks))]


@dataclass(frozen=True)
class Buckets:
    """Sizes that numbers of tokens, sequences and positions are rounded up to.

    Attributes:
        draft: draft tokens that a forward pass may verify for a sequence that runs alone; 0 turns speculation off.
        steps: tokens that one call may decode in turn for a sequence that runs alone; 0 where there is no such program.
        chunks: ascending sizes; a single one that holds everything where a prompt must not be cut.
        is_ragged: attention takes sequences with different numbers of new tokens and reads each one's cached length.
            Then one forward pass serves all sequences, prefilling and decoding, and reads the weights once.
    """

    max_batch: int
    max_len: int
    draft: int = 0
    steps: int = 0
    chunks: tuple[int, ...] = CHUNKS
    is_ragged: bool = False

    @property
    def ragged_sizes(self) -> tuple[int, ...]:
        """Tokens of a ragged pass; the largest fits MIN_PREFILL prompt tokens beside a decoding batch of all slots."""
        sizes: tuple[int, ...] = _RAGGED_SIZES
        while sizes[-1] < self.max_batch + MIN_PREFILL:
            sizes = (*sizes, _GROWTH * sizes[-1])
        return sizes

    @property
    def decode_sizes(self) -> Sequence[int]:
        """The numbers of sequences that fill a forward pass over one token of each."""
        return self.ragged_sizes if self.is_ragged else self.all_batches()

    @property
    def max_chunk(self) -> int:
        """The most tokens that a forward pass may add to a sequence."""
        return (self.ragged_sizes if self.is_ragged else self.chunks)[-1]

    def batch(self, sequences: int) -> int:
        """The batch in which so many sequences are computed."""
        size = self._ragged_size(sequences) if self.is_ragged else _round_up(sequences, _MIN_XLA_BATCH)
        return min(size, self.max_batch)

    def context(self, tokens: int) -> int:
        """The context that holds so many positions."""
        return min(_round_up(tokens, _MIN_CONTEXT), self.max_len)

    def compiled(self, shape: PassShape) -> PassShape:
        """The shape that a program is compiled for: of one context where attention reads each sequence's length."""
        return shape._replace(context=self.max_len) if self.is_ragged else shape

    def ragged(self, tokens: int, end: int) -> PassShape:
        """A pass over all sequences: so many tokens, all before position `end`."""
        return PassShape(1, self._ragged_size(tokens), self.max_batch, 0, self.context(end))

    def prefill(self, tokens: int, end: int) -> PassShape:
        """A pass over a chunk of one prompt."""
        return PassShape(1, next(n for n in self.chunks if n >= tokens), 1, 0, self.context(end))

    def decode(self, sequences: int, end: int) -> PassShape:
        """A pass over one token of each sequence."""
        batch = self.batch(sequences)
        return PassShape(batch, 1, batch, 0, self.context(end))

    def verify(self, end: int) -> PassShape:
        """A pass over the last token of one sequence and draft tokens behind it."""
        return PassShape(1, 1 + self.draft, 1, self.draft, self.context(end))

    def has_steps(self, shape: PassShape) -> bool:
        """Whether one call may run several passes of this shape in turn: it is over one token of one sequence."""
        return self.steps > 0 and shape.draft == 0 and shape.tokens == self.decode_sizes[0]

    def all_batches(self) -> list[int]:
        return sorted({self.batch(n) for n in range(1, self.max_batch + 1)})

    def _ragged_size(self, tokens: int) -> int:
        return next(n for n in self.ragged_sizes if n >= tokens)

    def sampled(self, shape: PassShape, sequences: int) -> int:
        """How many sequences of a pass are sampled, where the first `sequences` need a token."""
        return min(shape.sequences, self.batch(sequences)) if self.is_ragged else shape.sequences

    def all_shapes(self) -> Iterator[PassShape]:
        """Every shape that some step needs."""
        for end in sorted({self.context(n) for n in range(1, self.max_len + 1)}):
            if self.is_ragged:
                yield from (self.ragged(n, end) for n in self.ragged_sizes)
            else:
                yield from (self.prefill(n, end) for n in self.chunks)
                yield from (self.decode(n, end) for n in self.all_batches())
            if self.draft:
                yield self.verify(end)


def plan_step(buckets: Buckets, decoding: Sequence[Chunk], prefilling: Sequence[Chunk]) -> list[ForwardPass]:
    """The forward passes that compute these chunks: a ragged one, or one per prompt and one for all that decode."""
    chunks = [*decoding, *(chunk for chunk in prefilling if chunk.tokens)]
    if not chunks:
        return []
    chunks.sort(key=lambda chunk: not chunk.is_sampled)
    end = max(chunk.end for chunk in chunks)
    if any(chunk.draft_count for chunk in chunks):
        return [ForwardPass(buckets.verify(end), chunks)]  # of one sequence alone
    if buckets.is_ragged:
        return [ForwardPass(buckets.ragged(sum(len(chunk.tokens) for chunk in chunks), end), chunks)]
    passes = [ForwardPass(buckets.prefill(len(c.tokens), c.end), [c]) for c in prefilling if c.tokens]
    if decoding:
        passes.append(ForwardPass(buckets.decode(len(decoding), max(chunk.end for chunk in decoding)), decoding))
    return passes


def _round_up(n: int, smallest: int) -> int:
    """The least of smallest · _GROWTH^i that is at least n."""
    size = smallest
    while size < n:
        size *= _GROWTH
    return size
