"""A step's work: one chunk of each sequence, cut into forward passes of static shapes.

Programs are compiled per shape before the first request, so numbers of tokens, sequences and positions are rounded up
to a few sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LAST_TOKEN = -1  # stands for the token that a slot sampled last, which only the device may know yet

MIN_PREFILL = 8  # prompt tokens that a step takes at least; a smaller forward pass is hardly faster
CHUNKS = (MIN_PREFILL, 16, 64, 256)  # prompt tokens of a forward pass for one sequence (XLA)
DRAFT_TOKENS = 7  # per forward pass: on a CPU, eight positions cost little more than one
_RAGGED_SIZES = (1, 4, 8, 16, 32, 64, 256)  # tokens of all sequences in a ragged forward pass
_GROWTH = 4  # from a batch or context size to the next: few sizes are few programs to compile at the start
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
        allowed_V: packed uint32, the tokens that may be sampled; None allows all.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    draft_count: int = 0
    is_sampled: bool = True
    allowed_V: np.ndarray | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class PassShape(NamedTuple):
    """The static sizes of a forward pass.

    Attributes:
        batch, length: its tokens are [batch, length].
        sequences: one per batch entry; in a ragged pass, whose batch is 1, any number, one behind the other.
        draft: draft tokens that a sequence may have.
        context: positions that attention may run over.
        any_slot: its one sequence may be in any slot; otherwise the sequences are those of the first slots.
    """

    batch: int
    length: int
    sequences: int
    draft: int
    context: int
    any_slot: bool = False


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of the model over the chunks of some sequences.

    Attributes:
        first_slot: of its sequences.
    """

    shape: PassShape
    chunks: Sequence[Chunk] = ()
    first_slot: int = 0

    @classmethod
    def filled(cls, shape: PassShape) -> "ForwardPass":
        """A pass with chunks that fill a shape, to measure its time."""
        tokens = shape.batch * shape.length
        sequences, length = (tokens, 1) if tokens <= shape.sequences else (1, tokens)
        start = max(0, shape.context - length)
        return cls(shape, [Chunk(slot, start, [0] * length, shape.draft) for slot in range(sequences)])


@dataclass(frozen=True)
class Buckets:
    """Sizes that numbers of tokens, sequences and positions are rounded up to.

    Attributes:
        draft: draft tokens that a forward pass may verify for a sequence that runs alone; 0 turns speculation off.
        chunks: ascending sizes; a single one that holds everything where a prompt must not be cut.
        is_ragged: attention takes sequences with different numbers of new tokens and reads each one's cached length.
            Then one forward pass serves all sequences, prefilling and decoding, and reads the weights once.
    """

    max_batch: int
    max_len: int
    draft: int = 0
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
    def max_chunk(self) -> int:
        """The most tokens that a forward pass may add to a sequence."""
        return (self.ragged_sizes if self.is_ragged else self.chunks)[-1]

    def batch(self, slots: int) -> int:
        """The batch in which the first `slots` slots are computed."""
        return min(_round_up(slots, 1 if self.is_ragged else _MIN_XLA_BATCH), self.max_batch)

    def context(self, tokens: int) -> int:
        """The context that holds so many positions."""
        return min(_round_up(tokens, _MIN_CONTEXT), self.max_len)

    def compiled_context(self, context: int) -> int:
        """The context that a program is compiled for: one for all where attention reads each sequence's length."""
        return self.max_len if self.is_ragged else context

    def ragged(self, tokens: int, end: int) -> PassShape:
        """A pass over all sequences: so many tokens, all before position `end`."""
        size = next(n for n in self.ragged_sizes if n >= tokens)
        return PassShape(1, size, self.max_batch, 0, self.context(end))

    def prefill(self, tokens: int, end: int) -> PassShape:
        """A pass over a chunk of one prompt."""
        return PassShape(1, next(n for n in self.chunks if n >= tokens), 1, 0, self.context(end), any_slot=True)

    def decode(self, slots: int, end: int) -> PassShape:
        """A pass over one token of each of the first `slots` slots."""
        batch = self.batch(slots)
        return PassShape(batch, 1, batch, 0, self.context(end))

    def verify(self, end: int) -> PassShape:
        """A pass over the last token of slot 0 and draft tokens behind it."""
        return PassShape(1, 1 + self.draft, 1, self.draft, self.context(end))

    def all_batches(self) -> list[int]:
        return sorted({self.batch(n) for n in range(1, self.max_batch + 1)})

    def sampled(self, shape: PassShape, slots: int) -> int:
        """How many slots of a pass are sampled, where the first `slots` need a token."""
        return min(shape.sequences, self.batch(slots)) if self.is_ragged else shape.sequences

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
    """The forward passes that compute these chunks: a ragged one, or one per prompt and one for all that decode.

    Args:
        prefilling: chunks of all sequences that are not past their prompts, also the empty ones.
    """
    prefill = [chunk for chunk in prefilling if chunk.tokens]
    chunks = [*decoding, *prefill]
    if not chunks:
        return []
    end = max(chunk.end for chunk in chunks)
    if any(chunk.draft_count for chunk in chunks):
        return [ForwardPass(buckets.verify(end), chunks)]  # of slot 0 alone
    if buckets.is_ragged:
        return [ForwardPass(buckets.ragged(sum(len(chunk.tokens) for chunk in chunks), end), chunks)]
    passes = [ForwardPass(buckets.prefill(len(chunk.tokens), chunk.end), [chunk], chunk.slot) for chunk in prefill]
    if decoding:
        # XLA writes keys and values for every slot of the batch. Those of slots that do not decode must go behind what
        # is cached there, where the next chunk overwrites them: hence their empty chunks.
        idle = [Chunk(chunk.slot, chunk.end, (), is_sampled=False) for chunk in prefilling]
        shape = buckets.decode(max(chunk.slot for chunk in decoding) + 1, end)
        in_batch = [chunk for chunk in idle if chunk.slot < shape.sequences]
        passes.append(ForwardPass(shape, [*decoding, *in_batch]))
    return passes


def _round_up(n: int, smallest: int) -> int:
    """The least of smallest · _GROWTH^i that is at least n."""
    size = smallest
    while size < n:
        size *= _GROWTH
    return size
