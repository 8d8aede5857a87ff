"""The engine's compiled programs: pure functions of its device state.

`advance` runs the model and stops before its head; `choose` makes tokens of what it gives. So the head and the
sampler are compiled once for each size of the batch, not once more for each number of tokens. The state is donated all
along, so that caches are updated in place. Shapes are static (`Buckets`).
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import ModelConfig
from llm_jax.inference.batch import Asked, Feed
from llm_jax.inference.request import SamplingParams
from llm_jax.inference.sampling import Choice, RowSettings, count, row_settings, sample
from llm_jax.inference.shares import LAST
from llm_jax.kernels import put_block, take_block, use_huge_pages
from llm_jax.model import KVCache, Params, constrain_cache, forward_hidden, init_cache, merge

Carry = tuple[RowSettings, Array, Array, Array]  # through the positions of a step: rows, last, alive, emitted


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EngineState:
    """One row per running request.

    Attributes:
        cache: keys and values; how many each row holds is for the host to say.
        last_B: int32, the token that each row feeds to its next decode step.
        rows: sampling settings and counts.
    """

    cache: KVCache
    last_B: Array
    rows: RowSettings


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepResult:
    """What a step generated.

    Attributes:
        choices: arrays [P, B, …]: P positions of B rows.
        emitted_B: int32, how many positions are real for each row: one, or more where guesses were right.
    """

    choices: Choice
    emitted_B: Array


def init_state(config: ModelConfig, max_batch: int, max_len: int, dtype: str, chunk: int) -> EngineState:
    row = row_settings(SamplingParams(temperature=0.0), (), 0, config.vocab_size)
    cache = init_cache(config, max_batch, max_len, dtype, chunk=chunk)
    for kept in (*cache.keys, *cache.values):
        use_huge_pages(kept)
    return EngineState(
        cache=cache,
        last_B=jnp.zeros(max_batch, jnp.int32),
        rows=jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), max_batch, axis=0), row),
    )


def put(x_BKSH: Array, block_1KTH: Array, row: Array, start: Array, mesh: Mesh | None) -> Array:
    """Tokens into a cache; by XLA where that is spread over a mesh."""
    return put_block(x_BKSH, block_1KTH, row, start, native=False if mesh is not None else None)


def take(x_BKSH: Array, length: int, row: Array, start: Array, mesh: Mesh | None) -> Array:
    """Tokens out of a cache, likewise."""
    return take_block(x_BKSH, length, row, start, native=False if mesh is not None else None)


@partial(jax.jit, donate_argnames="state")
def admit(state: EngineState, row: Array, settings: RowSettings) -> EngineState:
    """Gives a row to a request with these settings (a batch of one)."""
    return replace(state, rows=jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), state.rows, settings))


@partial(jax.jit, static_argnames="mesh", donate_argnames="state")
def move_row(state: EngineState, source: Array, target: Array, *, mesh: Mesh | None = None) -> EngineState:
    """Copies everything of one row over another, so that the live rows stand together."""

    def move(x: Array) -> Array:
        return x.at[target].set(x[source])

    def move_tokens(x_BKSH: Array) -> Array:
        return put(x_BKSH, take(x_BKSH, x_BKSH.shape[2], source, zero, mesh), target, zero, mesh)

    zero, cache = jnp.int32(0), state.cache
    return EngineState(
        cache=replace(cache, keys=[*map(move_tokens, cache.keys)], values=[*map(move_tokens, cache.values)]),
        last_B=move(state.last_B),
        rows=jax.tree.map(move, state.rows),
    )


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="state")
def advance(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    feed: Feed,
    *,
    dtype: jnp.dtype,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[EngineState, Array]:
    """Runs the model over pieces of prompts, the tokens that rows generated last, and guesses of what follows.

    Padding and wrong guesses leave keys and values behind a row's live tokens, where its next ones overwrite them
    before anything attends to them.

    Args:
        context: static, at least what any row holds afterwards.

    Returns:
        hidden states [K, R, D] of the tokens that `feed` asks for.
    """
    rows = feed.rows
    last_BT = state.last_B[rows.of_tokens(feed.token_BT.shape)]
    token_BT = jnp.where(feed.token_BT == LAST, last_BT, feed.token_BT)
    hidden_BTD, cache = forward_hidden(
        config, params, token_BT, cache=state.cache, rows=rows, context=context, dtype=dtype
    )  # fmt: skip
    assert cache is not None
    hidden_PRD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[feed.out_PR]
    return replace(state, cache=constrain_cache(config, cache, mesh)), hidden_PRD


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def choose(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    hidden_PRD: Array,
    asked: Asked,
) -> tuple[EngineState, StepResult]:
    """The tokens that follow: the model's head and the sampler.

    At every position the token is chosen exactly as plain decoding would choose it: with the row's own noise for
    that position. A guess is right when it equals the choice, and then the position behind it counts too. So
    guessing changes how many tokens a step yields, and never which (speculative decoding, arXiv:2211.17192, with
    the noise held fixed instead of a rejection step).

    Args:
        hidden_PRD: what `advance` gave; of its rows the first B, as many as `asked` has, are looked at.
    """
    first, B = asked.first, len(asked.active_B)
    logits_PBV = merge(config, params).head(hidden_PRD[:, :B])

    def own(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, first, B)

    def choose_one(carry: Carry, position: tuple[Array, Array, Array]) -> tuple[Carry, Choice]:
        rows, last_B, alive_B, emitted_B = carry
        logits_BV, guess_B, is_guessed_B = position
        choice = sample(logits_BV, jax.tree.map(own, rows), alive_B, asked.allowed_BV, asked.is_masked)
        rows = count(rows, first + jnp.arange(B), choice.token_B, alive_B)
        last_B = jnp.where(alive_B, choice.token_B, last_B)
        emitted_B += alive_B
        alive_B &= is_guessed_B & (choice.token_B == guess_B)
        return (rows, last_B, alive_B, emitted_B), choice

    # Behind the last guess stands one more position, whose choice nothing has guessed.
    guess_PB = jnp.pad(asked.drafts_BK, ((0, 0), (0, 1))).T
    is_guessed_PB = jnp.arange(len(guess_PB))[:, None] < asked.draft_count_B
    carry: Carry = (state.rows, own(state.last_B), asked.active_B, jnp.zeros(B, jnp.int32))
    if len(guess_PB) == 1:
        carry, choice = choose_one(carry, (logits_PBV[0], guess_PB[0], is_guessed_PB[0]))
        choices = jax.tree.map(lambda x: x[None], choice)
    else:
        carry, choices = jax.lax.scan(choose_one, carry, (logits_PBV, guess_PB, is_guessed_PB))
    rows, last_B, _, emitted_B = carry
    last_all = jax.lax.dynamic_update_slice_in_dim(state.last_B, last_B, first, 0)
    return replace(state, last_B=last_all, rows=rows), StepResult(choices, emitted_B)
