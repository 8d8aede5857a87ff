"""The engine's compiled programs: pure functions of its device state.

`forward_chunks` runs the model up to its head, `sample_tokens` is the rest: so the head and the sampler are compiled
once per batch size and not once more per number of tokens. `decode` is both, several times in turn: for a stream alone,
whose step is so short that the host's part of it counts. The cache and the sampling state are donated throughout, and
thus updated in place. Shapes are static (`Buckets`).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import ModelConfig
from llm_jax.inference.engine.inputs import ModelInputs, SamplingInputs
from llm_jax.inference.engine.sampling import sample, token_logprobs
from llm_jax.inference.engine.sampling_state import SamplingState
from llm_jax.inference.engine.step_plan import DECODE_STEPS, LAST_TOKEN
from llm_jax.model import ChunkLayout, KVCache, Params, adapter_rows, forward_hidden, merge
from llm_jax.parallel import replicate
from llm_jax.programs import program

NO_TOKEN, NOT_FINITE = -1, -2  # in place of a token, see `StepResult`

_Carry = tuple[SamplingState, Array]  # from one position to the next: state, and which slots go on


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """Parameters as a program is given them: each array once, however many of them it is part of. A call takes as long
    as it is given arrays.

    Attributes:
        places: static, which of the arrays each leaf of the parameters is.
        tree: static, the structure of the parameters.
    """

    arrays: tuple[Array, ...]
    places: tuple[int, ...] = field(metadata={"static": True})
    tree: Any = field(metadata={"static": True})

    @classmethod
    def of(cls, params: Params) -> "Weights":
        leaves, tree = jax.tree.flatten(params)
        arrays = {id(leaf): leaf for leaf in leaves}
        numbers = {key: number for number, key in enumerate(arrays)}
        return cls(tuple(arrays.values()), tuple(numbers[id(leaf)] for leaf in leaves), tree)

    @property
    def params(self) -> Params:
        params: Params = self.tree.unflatten([self.arrays[place] for place in self.places])
        return params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepResult:
    """The tokens that a forward pass led to: arrays [P, B, …] of P positions of B slots.

    Attributes:
        token_PB: int32; NO_TOKEN where the slot is not active, and behind the first draft token that is not accepted;
            NOT_FINITE where the logits do not allow any. One array says it all, since reading each takes time.
        logprobs: see `token_logprobs`; zeros unless an active row asks for them.
    """

    token_PB: Array
    logprobs: tuple[Array, Array, Array]

    @classmethod
    def empty(cls, positions: int, like: "StepResult") -> "StepResult":
        """No tokens at so many positions. `like`: a result, or its shapes, of one position."""
        logprobs = jax.tree.map(lambda x: jnp.zeros((positions, *x.shape[1:]), x.dtype), like.logprobs)
        return cls(jnp.full((positions, *like.token_PB.shape[1:]), NO_TOKEN), logprobs)


@program(donate=["state"])
def assign_slot(state: SamplingState, slot: Array, request: SamplingState) -> SamplingState:
    """Sets one slot to the state of a new request (a batch of one)."""
    return jax.tree.map(lambda x, new: x.at[slot].set(new[0]), state, request)


@program(static=["config", "dtype", "mesh"], donate=["cache"])
def forward_chunks(
    config: ModelConfig,
    weights: Weights,
    adapters: Params,
    cache: KVCache,
    last_token_B: Array,
    inputs: ModelInputs,
    *,
    dtype: jnp.dtype,
    mesh: Mesh | None = None,
) -> tuple[KVCache, Array, Array]:
    """Runs the model, without its head, over chunks of prompts, last sampled tokens and draft tokens.

    Rejected draft tokens leave keys and values behind a sequence's cached length, where its next tokens overwrite them
    before anything attends to them.

    Args:
        adapters: the parameters of all adapters, or nothing.
        last_token_B: int32, the token that each slot sampled last.

    Returns:
        The cache, hidden states [P, R, D] of the positions to sample, and those of all tokens [B · T, D].
    """
    params, layout = weights.params | adapters, inputs.layout
    token_BT = inputs.token_BT
    last_token_BT = last_token_B[inputs.slot_R][layout.sequences(token_BT.shape)]
    token_BT = jnp.where(token_BT == LAST_TOKEN, last_token_BT, token_BT)
    if inputs.adapter_R is not None:
        params = adapter_rows(params, inputs.adapter_R[layout.sequences(token_BT.shape)])
    hidden_BTD, cache_after = forward_hidden(config, params, token_BT, cache=cache, layout=layout, dtype=dtype)
    assert cache_after is not None
    hidden_MD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    return cache_after, *replicate((hidden_MD[inputs.sampled_PR], hidden_MD), mesh)


@program(static=["config", "mesh"])
def score_tokens(
    config: ModelConfig, params: Params, hidden_MD: Array, token_M: Array, *, mesh: Mesh | None = None
) -> tuple[Array, Array, Array]:
    """Log-probabilities of tokens behind these hidden states, see `token_logprobs`. `params`: the head's suffice."""
    return replicate(token_logprobs(merge(config, params).head(hidden_MD), token_M), mesh)


@program(static=["config", "mesh"], donate=["state"])
def sample_tokens(
    config: ModelConfig,
    params: Params,
    state: SamplingState,
    hidden_PRD: Array,
    inputs: SamplingInputs,
    *,
    mesh: Mesh | None = None,
) -> tuple[SamplingState, StepResult]:
    """Samples the tokens that follow: the model's head and the sampler.

    At every position the token is sampled exactly as plain decoding would sample it: with the row's own random numbers
    for that position. A draft token is accepted when it equals the sampled one, and then the position behind it counts
    too. So speculation changes how many tokens a step yields, and never which (speculative decoding, arXiv:2211.17192,
    with the random numbers fixed instead of a rejection step).

    Args:
        params: those of the head suffice.
        hidden_PRD: from `forward_chunks`; the first B of its R sequences are sampled.
    """
    logits_PBV = merge(config, params).head(hidden_PRD[:, : len(inputs.slot_B)])

    def sample_position(carry: _Carry, position: tuple[Array, Array, Array]) -> tuple[_Carry, StepResult]:
        state, active_B = carry
        logits_BV, draft_B, is_drafted_B = position
        sampled = sample(logits_BV, state, inputs.slot_B, active_B, inputs.allowed_BW, inputs.is_masked)
        state = state.with_tokens(inputs.slot_B, sampled.token_B, active_B)
        token_B = jnp.where(active_B, jnp.where(sampled.is_finite_B, sampled.token_B, NOT_FINITE), NO_TOKEN)
        active_B &= is_drafted_B & (sampled.token_B == draft_B)
        return (state, active_B), StepResult(token_B, sampled.logprobs)

    # The position behind the last draft token has no draft to compare with.
    draft_PB = jnp.pad(inputs.draft_BU, ((0, 0), (0, 1))).T
    is_drafted_PB = jnp.arange(len(draft_PB))[:, None] < inputs.draft_count_B
    carry: _Carry = (state, inputs.active_B)
    if len(draft_PB) == 1:
        carry, result = sample_position(carry, (logits_PBV[0], draft_PB[0], is_drafted_PB[0]))
        result = jax.tree.map(lambda x: x[None], result)
    else:
        carry, result = jax.lax.scan(sample_position, carry, (logits_PBV, draft_PB, is_drafted_PB))
    return replicate((carry[0], result), mesh)


_Decoded = tuple[KVCache, SamplingState, ChunkLayout, StepResult]  # from one step to the next


@program(static=["config", "dtype", "mesh"], donate=["cache", "state"])
def decode(
    config: ModelConfig,
    weights: Weights,
    adapters: Params,
    cache: KVCache,
    state: SamplingState,
    inputs: ModelInputs,
    sampling: SamplingInputs,
    steps: Array,
    *,
    dtype: jnp.dtype,
    mesh: Mesh | None = None,
) -> tuple[KVCache, SamplingState, StepResult]:
    """Decodes `steps` tokens of each sequence, at most DECODE_STEPS: `forward_chunks` and `sample_tokens` in turn.

    Args:
        inputs: for each sequence LAST_TOKEN; it has the blocks for all steps.
        sampling: holds for each step.

    Returns:
        The result has DECODE_STEPS positions, NO_TOKEN behind the last step.
    """

    def step(state: SamplingState, cache: KVCache, layout: ChunkLayout) -> tuple[KVCache, SamplingState, StepResult]:
        # Else XLA would convert whole tables of bfloat16 to float32 ahead of the loop, where they never change.
        held, layout = jax.lax.optimization_barrier((weights, layout))
        at = replace(inputs, layout=layout)
        cache, hidden_PRD, _ = forward_chunks(
            config, held, adapters, cache, state.last_token_B, at, dtype=dtype, mesh=mesh
        )
        return cache, *sample_tokens(config, held.params, state, hidden_PRD, sampling, mesh=mesh)

    def add_step(number: Array, carry: _Decoded) -> _Decoded:
        cache, state, layout, results = carry
        cache, state, result = step(state, cache, layout)
        results = jax.tree.map(lambda all_P, one: all_P.at[number].set(one[0]), results, result)
        return cache, state, layout.advanced(), results

    shapes = jax.eval_shape(step, state, cache, inputs.layout)[2]
    carry = cache, state, inputs.layout, StepResult.empty(DECODE_STEPS, shapes)
    cache, state, _, results = jax.lax.fori_loop(0, steps, add_step, carry)
    return cache, *replicate((state, results), mesh)
