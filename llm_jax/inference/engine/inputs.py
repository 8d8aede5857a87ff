"""Model inputs and sampling inputs of a forward pass, as arrays. The host fills them with numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from llm_jax.inference.engine.step_plan import ForwardPass
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
        B, T, R, U, _ = forward_pass.shape
        is_ragged = B < R
        chunks = forward_pass.chunks
        token_M: Any = np.zeros(B * T, np.int32)
        slot_R: Any = np.zeros(R, np.int32)
        cached_R: Any = np.zeros(R, np.int32)
        new_R: Any = np.zeros(R, np.int32)
        last_R: Any = np.zeros(R, np.int32)
        slot_R[: len(chunks)] = [chunk.slot for chunk in chunks]
        cached_R[: len(chunks)] = [chunk.start for chunk in chunks]
        new_R[: len(chunks)] = [len(chunk.tokens) for chunk in chunks]
        for r, (chunk, row) in enumerate(zip(chunks, forward_pass.first_rows, strict=True)):
            token_M[row : row + len(chunk.tokens)] = chunk.tokens
            last_R[r] = row + len(chunk.tokens) - 1 - chunk.draft_count
        starts: Any = np.append(np.cumsum(new_R, dtype=np.int32) - new_R, np.int32(T)) if is_ragged else None
        blocks: list[Any] = [table[slot_R, :columns] for table in tables]
        sampled_PR: Any = np.minimum(last_R + np.arange(1 + U, dtype=np.int32)[:, None], B * T - 1)
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
        slot_B: Any = np.full(B, np.iinfo(np.int32).max, np.int32)
        active_B: Any = np.zeros(B, bool)
        draft_BU: Any = np.zeros((B, forward_pass.shape.draft), np.int32)
        draft_count_B: Any = np.zeros(B, np.int32)
        for index, chunk in enumerate(forward_pass.chunks[: forward_pass.sampled]):
            slot_B[index], active_B[index], draft_count_B[index] = chunk.slot, True, chunk.draft_count
            draft_BU[index, : chunk.draft_count] = chunk.tokens[len(chunk.tokens) - chunk.draft_count :]
        allowed_BW: Any = unmasked_BW
        if masks:
            allowed_BW = np.full(unmasked_BW.shape, 0xFFFFFFFF, np.uint32)
            for index, allowed_W in masks.items():
                allowed_BW[index] = allowed_W
        is_masked: Any = np.bool_(bool(masks))
        return cls(slot_B, active_B, draft_BU, draft_count_B, allowed_BW, is_masked)
