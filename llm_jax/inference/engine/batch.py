"""What a run of the model is told about its rows, as arrays. The host fills them with numpy."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from llm_jax.inference.engine.shares import Run
from llm_jax.model import ChunkLayout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Feed:
    """The tokens of a run.

    Attributes:
        token_BT: int32 ids, or LAST. What stands behind a row's tokens is computed too, and nothing looks at it.
        rows: the R rows that they belong to.
        out_PR: int32, which of the B · T hidden states are wanted: of each row the one of the last token that is no
            guess, then those of the guesses.
    """

    token_BT: Array
    layout: ChunkLayout
    out_PR: Array

    @classmethod
    def of(cls, run: Run) -> "Feed":
        B, T, R, draft, _, is_anywhere = run.shape
        is_ragged = B < R
        token_N: Any = np.zeros(B * T, np.int32)
        position_R: Any = np.zeros(R, np.int32)
        new_R: Any = np.zeros(R, np.int32)
        last_R = np.zeros(R, np.int32)
        for share in run.shares:
            position_R[share.row - run.first] = share.start
            new_R[share.row - run.first] = len(share.tokens)
        at_R: Any = np.cumsum(new_R, dtype=np.int32) - new_R if is_ragged else np.arange(R, dtype=np.int32) * T
        for share in run.shares:
            at = at_R[share.row - run.first]
            token_N[at : at + len(share.tokens)] = share.tokens
            last_R[share.row - run.first] = at + len(share.tokens) - 1 - share.guesses
        starts: Any = np.append(at_R, np.int32(T)) if is_ragged else None
        first: Any = np.int32(run.first) if is_anywhere else None
        out_PR: Any = np.minimum(last_R + np.arange(1 + draft, dtype=np.int32)[:, None], B * T - 1)
        return cls(token_N.reshape(B, T), ChunkLayout(position_R, new_R, starts, first), out_PR)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asked:
    """Of which rows tokens are chosen, and from what.

    Attributes:
        first: int32, the row that takes the place of row 0.
        active_B: bool, who gets a token.
        drafts_BK: int32, guesses of what follows; K may be 0. draft_count_B: int32, how many of them are meant.
        allowed_BV: bool, the tokens that may be chosen. is_masked: bool, whether that is less than all.
    """

    first: Array
    active_B: Array
    drafts_BK: Array
    draft_count_B: Array
    allowed_BV: Array
    is_masked: Array

    @classmethod
    def of(cls, run: Run, rows: int, everything_BV: Array) -> "Asked":
        """What the first `rows` rows of a run ask for; `everything_BV` is the mask that allows all."""
        first: Any = np.int32(run.first)
        active_B: Any = np.zeros(rows, bool)
        drafts_BK: Any = np.zeros((rows, run.shape.draft), np.int32)
        draft_count_B: Any = np.zeros(rows, np.int32)
        masks = {}
        for share in run.shares:
            row = share.row - run.first
            if share.is_asked:
                active_B[row], draft_count_B[row] = True, share.guesses
                drafts_BK[row, : share.guesses] = share.tokens[len(share.tokens) - share.guesses :]
            if share.allowed_V is not None:
                masks[row] = share.allowed_V
        allowed_BV: Any = everything_BV
        if masks:
            allowed_BV = np.ones(everything_BV.shape, bool)
            for row, allowed_V in masks.items():
                allowed_BV[row] = allowed_V
        is_masked: Any = np.bool_(bool(masks))
        return cls(first, active_B, drafts_BK, draft_count_B, allowed_BV, is_masked)
