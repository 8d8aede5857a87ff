"""The engine's compiled programs: pure functions of its device state.

`prefill` and `decode` run the model and stop before its head; `choose` makes tokens of what they give. So the head
and the sampler are compiled once for each size of the batch, not once more for each context. The state is donated
all along, so that caches are updated in place. Shapes are static (`Buckets`).
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import ModelConfig
from llm_jax.inference.request import SamplingParams
from llm_jax.inference.sampling import Choice, RowSettings, count, row_settings, sample
from llm_jax.kernels import put_block, take_block, use_huge_pages
from llm_jax.model import KVCache, Params, constrain_cache, forward_hidden, init_cache, merge

Carry = tuple[RowSettings, Array, Array, Array]  # through the positions of a step: rows, last, alive, emitted


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EngineState:
    """One row per running request.

    Attributes:
        cache: keys and values, and the number of tokens each row holds.
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
        choices: arrays [T, B, …]: T positions of B rows.
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
def admit(state: EngineState, row: Array, length: Array, settings: RowSettings) -> EngineState:
    """Gives a row to a request with these settings (a batch of one) and a prompt of `length` tokens.

    The row counts as holding all but the last of them: `choose` adds one for each token that was fed.
    """
    return replace(
        state,
        cache=replace(state.cache, length_B=state.cache.length_B.at[row].set(length - 1)),
        rows=jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), state.rows, settings),
    )


@partial(jax.jit, static_argnames="mesh", donate_argnames="state")
def move_row(state: EngineState, source: Array, target: Array, *, mesh: Mesh | None = None) -> EngineState:
    """Copies everything of one row over another, so that the live rows stand together."""

    def move(x: Array) -> Array:
        return x.at[target].set(x[source])

    def move_tokens(x_BKSH: Array) -> Array:
        return put(x_BKSH, take(x_BKSH, x_BKSH.shape[2], source, zero, mesh), target, zero, mesh)

    zero, cache = jnp.int32(0), state.cache
    return EngineState(
        cache=KVCache(
            [move_tokens(k) for k in cache.keys], [move_tokens(v) for v in cache.values], move(cache.length_B)
        ),
        last_B=move(state.last_B),
        rows=jax.tree.map(move, state.rows),
    )


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="state")
def prefill(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    row: Array,
    tokens_T: Array,
    start: Array,
    length: Array,
    *,
    dtype: jnp.dtype,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[EngineState, Array]:
    """Runs one chunk of one row's prompt.

    Args:
        tokens_T: the chunk, padded on the right. Padding is computed and written too, behind the live tokens,
            where the next chunk or decode step overwrites it before anything attends to it.
        start: how many tokens the row holds already. length: how many of the T are real.
        context: static, at least start + T rounded to its bucket.
        mesh: static, the devices that the model spans, where these are several.

    Returns:
        the last token's hidden state [1, 1, D].
    """
    # A model that is not causal must not look at the padding; a causal one cannot.
    live = None if config.is_causal else (jnp.arange(context) < start + length)[None, None, None, :]
    live_B = length[None] if config.is_causal else None
    cache = replace(state.cache, length_B=start[None], first_row=row)
    hidden_1TD, grown = forward_hidden(
        config, params, tokens_T[None], cache=cache, context=context, mask=live, dtype=dtype, live_B=live_B
    )  # fmt: skip
    assert grown is not None
    grown = constrain_cache(config, replace(grown, length_B=state.cache.length_B, first_row=None), mesh)
    return replace(state, cache=grown), jax.lax.dynamic_slice_in_dim(hidden_1TD, length - 1, 1, axis=1)


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="state")
def decode(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    active_B: Array,
    drafts_BK: Array,
    draft_count_B: Array,
    *,
    dtype: jnp.dtype,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[EngineState, Array]:
    """Feeds each of the first B rows its last token, and K guesses of what follows.

    Rows that are not active stay as they are: their keys and values are written behind their live tokens, where
    their next chunk overwrites them. So are those of wrong guesses.

    Args:
        active_B: bool; B is a bucket of the rows, and rows behind it take no part.
        drafts_BK: int32 guesses; K is static and may be 0. draft_count_B: how many of them are meant.
        context: static, at least the longest active row's length + 1 + K.

    Returns:
        hidden states [1 + K, B, D].
    """
    B = len(active_B)
    cache = replace(state.cache, length_B=state.cache.length_B[:B])
    tokens_BT = jnp.concatenate([state.last_B[:B, None], drafts_BK], axis=1)
    live_B = jnp.where(active_B, 1 + draft_count_B, 0)
    hidden_BTD, grown = forward_hidden(
        config, params, tokens_BT, cache=cache, context=context, dtype=dtype, live_B=live_B
    )  # fmt: skip
    assert grown is not None
    grown = constrain_cache(config, replace(grown, length_B=state.cache.length_B), mesh)
    return replace(state, cache=grown), hidden_BTD.swapaxes(0, 1)


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def choose(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    hidden_TBD: Array,
    first: Array,
    active_B: Array,
    drafts_BK: Array,
    draft_count_B: Array,
    allowed_BV: Array,
    is_masked: Array,
) -> tuple[EngineState, StepResult]:
    """The tokens that follow, for the B rows from `first` on: the model's head and the sampler.

    At every position the token is chosen exactly as plain decoding would choose it: with the row's own noise for
    that position. A guess is right when it equals the choice, and then the position behind it counts too. So
    guessing changes how many tokens a step yields, and never which (speculative decoding, arXiv:2211.17192, with
    the noise held fixed instead of a rejection step).

    Args:
        hidden_TBD: what `prefill` or `decode` gave; T = 1 + K.
        active_B: bool; the other rows stay as they are.
        draft_count_B: how many of the K guesses are meant.
        allowed_BV: bool, tokens that may be chosen. is_masked: bool, whether that is less than all.
    """
    T, B, _ = hidden_TBD.shape
    logits_TBV = merge(config, params).head(hidden_TBD)

    def own(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, first, B)

    def choose_one(carry: Carry, position: tuple[Array, Array, Array]) -> tuple[Carry, Choice]:
        rows, last_B, alive_B, emitted_B = carry
        logits_BV, guess_B, is_guessed_B = position
        choice = sample(logits_BV, jax.tree.map(own, rows), alive_B, allowed_BV, is_masked)
        rows = count(rows, first + jnp.arange(B), choice.token_B, alive_B)
        last_B = jnp.where(alive_B, choice.token_B, last_B)
        emitted_B += alive_B
        alive_B &= is_guessed_B & (choice.token_B == guess_B)
        return (rows, last_B, alive_B, emitted_B), choice

    # Behind the last guess stands one more position, whose choice nothing has guessed.
    guess_TB = jnp.pad(drafts_BK, ((0, 0), (0, 1))).T
    is_guessed_TB = jnp.arange(T)[:, None] < draft_count_B
    carry: Carry = (state.rows, own(state.last_B), active_B, jnp.zeros(B, jnp.int32))
    if T == 1:
        carry, choice = choose_one(carry, (logits_TBV[0], guess_TB[0], is_guessed_TB[0]))
        choices = jax.tree.map(lambda x: x[None], choice)
    else:
        carry, choices = jax.lax.scan(choose_one, carry, (logits_TBV, guess_TB, is_guessed_TB))
    rows, last_B, _, emitted_B = carry
    length_B = state.cache.length_B
    moved = EngineState(
        cache=replace(
            state.cache,
            length_B=jax.lax.dynamic_update_slice_in_dim(length_B, own(length_B) + emitted_B, first, 0),
        ),
        last_B=jax.lax.dynamic_update_slice_in_dim(state.last_B, last_B, first, 0),
        rows=rows,
    )
    return moved, StepResult(choices, emitted_B)
