"""Model inputs and sampling inputs of a forward pass, as arrays. The host fills them with numpy."""

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
        layout: which of the R sequences each token belongs to.
        sampled_PR: int32 indices into the B · T hidden states: for each sequence the last token that is no draft, then
            the draft tokens.
    """

    token_BT: Array
    layout: ChunkLayout
    sampled_PR: Array

    @classmethod
    def of(cls, forward_pass: ForwardPass) -> "ModelInputs":
        B, T, R, U, _, any_slot = forward_pass.shape
        is_ragged = B < R
        token_M: Any = np.zeros(B * T, np.int32)
        cached_R: Any = np.zeros(R, np.int32)
        new_R: Any = np.zeros(R, np.int32)
        last_R = np.zeros(R, np.int32)
        for chunk in forward_pass.chunks:
            cached_R[chunk.slot - forward_pass.first_slot] = chunk.start
            new_R[chunk.slot - forward_pass.first_slot] = len(chunk.tokens)
        start_R: Any = np.cumsum(new_R, dtype=np.int32) - new_R if is_ragged else np.arange(R, dtype=np.int32) * T
        for chunk in forward_pass.chunks:
            start = start_R[chunk.slot - forward_pass.first_slot]
            token_M[start : start + len(chunk.tokens)] = chunk.tokens
            last_R[chunk.slot - forward_pass.first_slot] = start + len(chunk.tokens) - 1 - chunk.draft_count
        starts: Any = np.append(start_R, np.int32(T)) if is_ragged else None
        first_slot: Any = np.int32(forward_pass.first_slot) if any_slot else None
        sampled_PR: Any = np.minimum(last_R + np.arange(1 + U, dtype=np.int32)[:, None], B * T - 1)
        return cls(token_M.reshape(B, T), ChunkLayout(cached_R, new_R, starts, first_slot), sampled_PR)


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
    def of(cls, forward_pass: ForwardPass, B: int, unmasked_BW: Array) -> "SamplingInputs":
        """For the first `B` slots of a pass.

        Args:
            unmasked_BW: the mask that allows all tokens, on the device: nothing is sent where no chunk has a mask.
        """
        slot_B: Any = np.full(B, np.iinfo(np.int32).max, np.int32)
        active_B: Any = np.zeros(B, bool)
        draft_BU: Any = np.zeros((B, forward_pass.shape.draft), np.int32)
        draft_count_B: Any = np.zeros(B, np.int32)
        masks = {}
        for chunk in forward_pass.chunks:
            index = chunk.slot - forward_pass.first_slot
            if chunk.is_sampled:
                slot_B[index], active_B[index], draft_count_B[index] = chunk.slot, True, chunk.draft_count
                draft_BU[index, : chunk.draft_count] = chunk.tokens[len(chunk.tokens) - chunk.draft_count :]
            if chunk.allowed_V is not None:
                masks[index] = chunk.allowed_V
        allowed_BW: Any = unmasked_BW
        if masks:
            allowed_BW = np.full(unmasked_BW.shape, 0xFFFFFFFF, np.uint32)
            for index, allowed_W in masks.items():
                allowed_BW[index] = allowed_W
        is_masked: Any = np.bool_(bool(masks))
        return cls(slot_B, active_B, draft_BU, draft_count_B, allowed_BW, is_masked)
