"""A step's work, cut into runs of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_jax.inference.engine.buckets import Buckets, Shape

LAST = -1  # in place of an id: the token that the row generated last, which only the device may know yet


@dataclass(frozen=True)
class Share:
    """One row's part in a run.

    Attributes:
        start: the position of the first token.
        tokens: ids, or LAST. The last `guesses` of them are guesses.
        is_asked: a token is to be chosen behind the last one that is no guess, and behind each guess that is right.
        allowed_V: bool, the tokens that may be chosen; None allows all.
    """

    row: int
    start: int
    tokens: Sequence[int]
    guesses: int = 0
    is_asked: bool = True
    allowed_V: np.ndarray | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True)
class Run:
    """One run of the model.

    Attributes:
        first: the row that takes the place of row 0.
    """

    shape: Shape
    shares: Sequence[Share] = ()
    first: int = 0


def rehearsal(shape: Shape) -> Run:
    """Work that fills a shape: to time it."""
    tokens = shape.batch * shape.length
    rows, length = (tokens, 1) if tokens <= shape.rows else (1, tokens)
    start = max(0, shape.context - length)
    return Run(shape, [Share(row, start, [0] * length, shape.draft) for row in range(rows)])


def runs(buckets: Buckets, decoding: Sequence[Share], prompts: Sequence[Share]) -> list[Run]:
    """What serves these shares: one run where rows may differ, else one for each prompt and one for what decodes.

    Args:
        prompts: of all rows that are still at theirs, also of those that get no further now.
    """
    pieces = [share for share in prompts if share.tokens]
    shares = [*decoding, *pieces]
    if not shares:
        return []
    end = max(share.end for share in shares)
    if any(share.guesses for share in shares):
        return [Run(buckets.check(end), shares)]  # of row 0 alone
    if buckets.is_ragged:
        return [Run(buckets.ragged(sum(len(share.tokens) for share in shares), end), shares)]
    made = [Run(buckets.prompt(len(share.tokens), share.end), [share], share.row) for share in pieces]
    if decoding:
        # XLA writes something for every row: behind what the idle ones hold, where their next piece overwrites it.
        idle = [Share(share.row, share.end, (), is_asked=False) for share in prompts]
        rows = max(share.row for share in decoding) + 1
        shape = buckets.decode(rows, end)
        made.append(Run(shape, [*decoding, *(share for share in idle if share.row < shape.rows)]))
    return made
