"""Masks of constrained requests, made in threads while the device computes."""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from llm_jax.inference.engine.request import Constraint


def without(mask_W: np.ndarray | None, ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """A packed mask of what another allows, None for all, but for these ids; unless it allows nothing else."""
    if mask_W is None:
        mask_W = np.full(-(-vocab_size // 32), 0xFFFFFFFF, np.uint32)
    left_W = mask_W.copy()
    for token in ids:
        left_W[token // 32] &= ~np.uint32(1 << token % 32)
    return left_W if left_W.any() else mask_W


def compute_masks(
    pool: Executor, rows: Sequence[tuple[Constraint, Sequence[int]]]
) -> list[np.ndarray | Exception | None]:
    """What each row's constraint allows next, or the exception that it raised, which is for its own request alone.

    Args:
        rows: constraints, each with the tokens that its request has generated.
    """

    def compute(row: tuple[Constraint, Sequence[int]]) -> np.ndarray | Exception | None:
        constraint, generated = row
        try:
            return constraint.mask(generated)
        except Exception as error:
            return error

    return [compute(rows[0])] if len(rows) == 1 else list(pool.map(compute, rows))
