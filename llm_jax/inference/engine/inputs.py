"""Model inputs and sampling inputs of a forward pass, as arrays. The host fills them with numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array

from llm_jax.inference.engine.step_plan import Chunk, ForwardPass, PassShape
from llm_jax.model import ChunkLayout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelInputs:
    """The tokens of a forward pass.

    Attributes:
        token_BT: int32 ids or LAST_TOKEN. Padding behind a sequence's tokens is computed too, and never read.
        slot_R: int32, the batch slot of each sequence.
        layout: which of the R sequences each token belongs to, and where it goes in the cache.
        sampled_PR: int32 indices into the B · T hidden states: for each sequence the last token that is no draft, then
            the draft tokens.
        adapter_R: int32, the slot of each sequence's adapter, -1 without one; None where the model has no adapters.
    """

    token_BT: Array
    slot_R: Array
    layout: ChunkLayout
    sampled_PR: Array
    adapter_R: Array | None = None

    @classmethod
    def of(
        cls,
        forward_pass: ForwardPass,
        tables: Sequence[np.ndarray],
        columns: int,
        adapter_B: np.ndarray | None = None,
    ) -> "ModelInputs":
        """Args:
        tables: the blocks of all slots, for each group of layers [slots, Y]. columns: how many of the Y.
        adapter_B: the adapters of all slots.
        """
        B, T, R, _, _ = forward_pass.shape
        chunks = forward_pass.chunks
        slot_R, new_R, starts, sampled_PR = _sequences(forward_pass.shape, _places(chunks))
        token_M: Any = np.zeros(B * T, np.int32)
        cached_R: Any = np.zeros(R, np.int32)
        cached_R[: len(chunks)] = [chunk.start for chunk in chunks]
        for chunk, row in zip(chunks, forward_pass.first_rows, strict=True):
            token_M[row : row + len(chunk.tokens)] = chunk.tokens
        blocks: list[Any] = [table[slot_R, :columns] for table in tables]
        layout = ChunkLayout(cached_R, new_R, tuple(blocks), starts)
        adapter_R: Any = None if adapter_B is None else adapter_B[slot_R]
        return cls(token_M.reshape(B, T), slot_R, layout, sampled_PR, adapter_R)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingInputs:
    """Which slots get a token behind a forward pass, and from what it is sampled.

    Attributes:
        slot_B: int32; of what is not active, a slot that does not exist.
        active_B: bool, which get a token.
        draft_BU: int32 draft tokens; U may be 0. draft_count_B: int32, how many of them are real.
        allowed_BW: uint32, the tokens that may be sampled: bit i of word j is token 32 j + i.
        is_masked: bool, False if these are all.
    """

    slot_B: Array
    active_B: Array
    draft_BU: Array
    draft_count_B: Array
    allowed_BW: Array
    is_masked: Array

    @classmethod
    def of(
        cls, forward_pass: ForwardPass, B: int, unmasked_BW: Array, masks: Mapping[int, np.ndarray]
    ) -> "SamplingInputs":
        """For the chunks of a pass behind which a token is sampled.

        Args:
            unmasked_BW: the mask that allows all tokens, on the device: nothing is sent where there are no masks.
            masks: the allowed tokens of some chunks, uint32 [W].
        """
        chunks = forward_pass.chunks[: forward_pass.sampled]
        slot_B, active_B, draft_count_B = _samples(B, _places(chunks))
        draft_BU: Any = np.zeros((B, forward_pass.shape.draft), np.int32)
        for index, chunk in enumerate(chunks):
            if chunk.draft_count:
                draft_BU[index, : chunk.draft_count] = chunk.tokens[-chunk.draft_count :]
        allowed_BW: Any = unmasked_BW
        if masks:
            allowed_BW = np.full(unmasked_BW.shape, 0xFFFFFFFF, np.uint32)
            for index, allowed_W in masks.items():
                allowed_BW[index] = allowed_W
        is_masked: Any = np.bool_(bool(masks))
        return cls(slot_B, active_B, draft_BU, draft_count_B, allowed_BW, is_masked)


_Place = tuple[int, int, int]  # of a chunk: its slot, how many tokens it has, how many of them are draft tokens


def _places(chunks: Sequence[Chunk]) -> tuple[_Place, ...]:
    return tuple((chunk.slot, len(chunk.tokens), chunk.draft_count) for chunk in chunks)


# From step to step the same streams mostly decode: what is the same for them is made once, and is not to be written to.


@lru_cache(maxsize=64)
def _sequences(shape: PassShape, places: tuple[_Place, ...]) -> tuple[Any, Any, Any, Any]:
    """slot_R, new_R, starts and sampled_PR, see `ModelInputs`."""
    B, T, R, U, _ = shape
    slot_R, new_R, draft_R = (np.zeros(R, np.int32) for _ in range(3))
    if places:
        slot_R[: len(places)], new_R[: len(places)], draft_R[: len(places)] = np.array(places).T
    is_ragged = B < R
    first_R = np.cumsum(new_R, dtype=np.int32) - new_R if is_ragged else T * np.arange(R, dtype=np.int32)
    starts = np.append(first_R, np.int32(T)) if is_ragged else None
    last_R = first_R + new_R - 1 - draft_R
    sampled_PR = np.clip(last_R + np.arange(1 + U, dtype=np.int32)[:, None], 0, B * T - 1)
    return slot_R, new_R, starts, sampled_PR


@lru_cache(maxsize=64)
def _samples(batch: int, places: tuple[_Place, ...]) -> tuple[Any, Any, Any]:
    """slot_B, active_B and draft_count_B, see `SamplingInputs`."""
    slot_B, draft_count_B = np.full(batch, np.iinfo(np.int32).max, np.int32), np.zeros(batch, np.int32)
    for index, (slot, _, draft_count) in enumerate(places):
        slot_B[index], draft_count_B[index] = slot, draft_count
    return slot_B, np.arange(batch) < len(places), draft_count_B
