"""Per-slot state of the sampler: settings of each slot's request, and the tokens that its penalties count."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.inference.engine.request import SamplingParams

_SMALLEST, _LARGEST = 1e-30, 1e30  # bounds within which float32 still multiplies; settings beyond act the same
_MIN_TEMPERATURE = 1e-6  # nearly greedy; logits divided by less would overflow


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingState:
    """SamplingParams as arrays, one entry per slot, and the token counts that penalties need.

    Attributes:
        temperature_B, top_p_B, min_p_B, repetition_B, presence_B, frequency_B: float32.
        top_k_B: int32, the vocabulary's size where off.
        seed_B2: uint32, the two words of a threefry key.
        generated_B: int32, how many tokens the slot has generated; last_token_B: int32, the last of them.
        adjusts_B: bool, whether any penalty or bias is set.
        wants_logprobs_B: bool.
        bias_BV: float32, added to the logits.
        in_prompt_BV: bool; count_BV: int32, how often each token was generated.
    """

    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    min_p_B: Array
    repetition_B: Array
    presence_B: Array
    frequency_B: Array
    seed_B2: Array
    generated_B: Array
    last_token_B: Array
    adjusts_B: Array
    wants_logprobs_B: Array
    bias_BV: Array
    in_prompt_BV: Array
    count_BV: Array

    @classmethod
    def of(
        cls,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        seed: int,
        vocab_size: int,
        generated: Sequence[int] = (),
    ) -> "SamplingState":
        """The state of one request that has generated some tokens: B is 1, the arrays are numpy's."""
        bias = np.zeros((1, vocab_size), np.float32)
        for token, value in (sampling.logit_bias or {}).items():
            bias[0, token] = value
        in_prompt = np.zeros((1, vocab_size), bool)
        in_prompt[0, list(prompt_ids)] = True
        temperature = sampling.temperature and min(max(sampling.temperature, _MIN_TEMPERATURE), _LARGEST)
        arrays: dict[str, Any] = {
            "temperature_B": np.array([temperature], np.float32),
            "top_k_B": np.array([min(sampling.top_k or vocab_size, vocab_size)], np.int32),
            "top_p_B": np.array([1.0 if sampling.top_p is None else max(sampling.top_p, _SMALLEST)], np.float32),
            "min_p_B": np.array([sampling.min_p or 0.0], np.float32),
            "repetition_B": np.array([min(max(sampling.repetition_penalty, _SMALLEST), _LARGEST)], np.float32),
            "presence_B": np.array([sampling.presence_penalty], np.float32),
            "frequency_B": np.array([sampling.frequency_penalty], np.float32),
            "seed_B2": np.array([[(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF]], np.uint32),
            "generated_B": np.array([len(generated)], np.int32),
            "last_token_B": np.zeros(1, np.int32),
            "adjusts_B": np.array([sampling.adjusts_logits]),
            "wants_logprobs_B": np.array([sampling.logprobs is not None]),
            "bias_BV": bias,
            "in_prompt_BV": in_prompt,
            "count_BV": np.bincount(np.array(generated, np.int64), minlength=vocab_size)[None].astype(np.int32),
        }
        return cls(**arrays)

    @classmethod
    def empty(cls, slots: int, vocab_size: int) -> "SamplingState":
        """The default state of empty slots: greedy, so that they cost no filter and no noise."""
        one = cls.of(SamplingParams(temperature=0.0), (), 0, vocab_size)
        return jax.tree.map(lambda x: jax.device_put(np.repeat(x, slots, axis=0)), one)

    def at(self, slot_B: Array) -> "SamplingState":
        """The state of these slots; of one that does not exist, another's."""
        return jax.tree.map(lambda x: x.at[slot_B].get(mode="clip"), self)

    def with_tokens(self, slot_B: Array, token_B: Array, active_B: Array) -> "SamplingState":
        """The state after these slots have generated these tokens, where active."""
        slot_B = jnp.where(active_B, slot_B, len(self.last_token_B))  # behind the last: nothing is written
        return replace(
            self,
            count_BV=self.count_BV.at[slot_B, token_B].add(1, mode="drop"),
            generated_B=self.generated_B.at[slot_B].add(1, mode="drop"),
            last_token_B=self.last_token_B.at[slot_B].set(token_B, mode="drop"),
        )
