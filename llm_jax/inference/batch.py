"""What one step is told about its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """The rows of one step.

    Attributes:
        active_B: bool, who takes part.
        drafts_BK: int32, guesses of what follows; K may be 0. draft_count_B: int32, how many of them are meant.
        allowed_BV: bool, the tokens that may be chosen; None allows all.
    """

    active_B: np.ndarray
    drafts_BK: np.ndarray
    draft_count_B: np.ndarray
    allowed_BV: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        rows: int,
        active: Sequence[int] = (),
        *,
        drafts: Mapping[int, Sequence[int]] | None = None,
        draft: int = 0,
        masks: Mapping[int, np.ndarray] | None = None,
    ) -> "Batch":
        """A batch of so many rows, from what is known of some of them.

        Args:
            drafts: guesses by row, each at most `draft` long. masks: allowed tokens by row.
        """
        active_B, counts_B = np.zeros(rows, bool), np.zeros(rows, np.int32)
        drafts_BK = np.zeros((rows, draft), np.int32)
        active_B[list(active)] = True
        for row, guess in (drafts or {}).items():
            drafts_BK[row, : len(guess)] = guess
            counts_B[row] = len(guess)
        allowed_BV = None
        if masks:
            allowed_BV = np.ones((rows, len(next(iter(masks.values())))), bool)
            for row, mask in masks.items():
                allowed_BV[row] = mask
        return cls(active_B, drafts_BK, counts_B, allowed_BV)

    @property
    def rows(self) -> int:
        return len(self.active_B)

    @property
    def draft(self) -> int:
        return self.drafts_BK.shape[1]
