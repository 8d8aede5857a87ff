"""The engine's device state, and the pure functions that move it: admit, prefill, decode, move_row.

The state is donated to each of them, so that caches are updated in place. Shapes are static: prompts are padded to
a bucket, decoding runs over a bucket of the rows, and attention over a bucket of the longest live context.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import ModelConfig
from llm_jax.inference.sampling import Choice, RowSettings, SamplingParams, count, row_settings, sample
from llm_jax.kernels import use_huge_pages
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


@partial(jax.jit, donate_argnames="state")
def admit(state: EngineState, row: Array, held: Array, settings: RowSettings) -> EngineState:
    """Gives a row to a request: its settings (a batch of one), and `held` tokens that the cache has already."""
    return replace(
        state,
        cache=replace(state.cache, length_B=state.cache.length_B.at[row].set(held)),
        rows=jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), state.rows, settings),
    )


@partial(jax.jit, donate_argnames="state")
def move_row(state: EngineState, source: Array, target: Array) -> EngineState:
    """Copies everything of one row over another, so that the live rows stand together."""
    return jax.tree.map(lambda x: x.at[target].set(x[source]), state)


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="state")
def prefill(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    row: Array,
    tokens_T: Array,
    start: Array,
    length: Array,
    is_last: Array,
    allowed_1V: Array | None = None,
    *,
    dtype: str,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[EngineState, StepResult]:
    """Runs one chunk of one row's prompt and chooses the token that would follow it.

    Only the last chunk's choice counts.

    Args:
        tokens_T: the chunk, padded on the right. Padding is computed and written too, behind the live tokens,
            where the next chunk or decode step overwrites it before anything attends to it.
        start: how many tokens the row holds already. length: how many of the T are real.
        is_last: bool, whether the prompt ends here.
        context: static, at least start + T rounded to its bucket.
        mesh: static, the devices that the model spans, where these are several.
    """

    def one_row(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, row, 1, axis=0)

    # A model that is not causal must not look at the padding; a causal one cannot.
    live = None if config.is_causal else (jnp.arange(context) < start + length)[None, None, None, :]
    live_B = length[None] if config.is_causal else None
    cache = replace(state.cache, length_B=start[None], first_row=row)
    hidden, grown = forward_hidden(
        config, params, tokens_T[None], cache=cache, context=context, mask=live, dtype=dtype, live_B=live_B
    )
    assert grown is not None
    last_1D = jax.lax.dynamic_slice_in_dim(hidden, length - 1, 1, axis=1)[:, 0]
    settings = jax.tree.map(one_row, state.rows)
    choice = sample(merge(config, params).head(last_1D), settings, is_last[None], allowed_1V)
    held_B = state.cache.length_B.at[row].set(start + length)
    moved = EngineState(
        cache=constrain_cache(config, replace(grown, length_B=held_B, first_row=None), mesh),
        last_B=state.last_B.at[row].set(choice.token_B[0]),
        rows=count(state.rows, row[None], choice.token_B, is_last[None]),
    )
    return moved, StepResult(jax.tree.map(lambda x: x[None], choice), jnp.ones(1, jnp.int32))


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="state")
def decode(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    active_B: Array,
    drafts_BK: Array,
    draft_count_B: Array,
    allowed_BV: Array | None = None,
    *,
    dtype: str,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[EngineState, StepResult]:
    """Feeds each of the first B rows its last token, and K guesses of what follows; chooses the next tokens.

    At every position the token is chosen exactly as plain decoding would choose it: with the row's own noise for
    that position. A guess is right when it equals the choice, and then the position behind it counts too. So
    guessing changes how many tokens a step yields, and never which (speculative decoding, arXiv:2211.17192, with
    the noise held fixed instead of a rejection step).

    Rows that are not active stay as they are: their keys and values are written behind their live tokens, where
    their next chunk overwrites them. So are those of wrong guesses.

    Args:
        active_B: bool; B is a bucket of the rows, and rows behind it take no part.
        drafts_BK: int32 guesses; K is static and may be 0. draft_count_B: how many of them are meant.
        context: static, at least the longest active row's length + 1 + K.
    """
    B, K = drafts_BK.shape
    row_B = jnp.arange(B)
    cache = replace(state.cache, length_B=state.cache.length_B[:B])
    tokens_BT = jnp.concatenate([state.last_B[:B, None], drafts_BK], axis=1)
    live_B = jnp.where(active_B, 1 + draft_count_B, 0)
    hidden, grown = forward_hidden(config, params, tokens_BT, cache=cache, context=context, dtype=dtype, live_B=live_B)
    assert grown is not None
    logits_TBV = merge(config, params).head(hidden.swapaxes(0, 1))

    def choose(carry: Carry, position: tuple[Array, Array, Array]) -> tuple[Carry, Choice]:
        rows, last_B, alive_B, emitted_B = carry
        logits_BV, guess_B, is_guessed_B = position
        choice = sample(logits_BV, jax.tree.map(lambda x: x[:B], rows), alive_B, allowed_BV)
        rows = count(rows, row_B, choice.token_B, alive_B)
        last_B = jnp.where(alive_B, choice.token_B, last_B)
        emitted_B += alive_B
        alive_B &= is_guessed_B & (choice.token_B == guess_B)
        return (rows, last_B, alive_B, emitted_B), choice

    # Behind the last guess stands one more position, whose choice nothing has guessed.
    guess_TB = jnp.pad(drafts_BK, ((0, 0), (0, 1))).T
    is_guessed_TB = jnp.arange(K + 1)[:, None] < draft_count_B
    carry: Carry = (state.rows, state.last_B[:B], active_B, jnp.zeros(B, jnp.int32))
    if K == 0:
        carry, choice = choose(carry, (logits_TBV[0], guess_TB[0], is_guessed_TB[0]))
        choices = jax.tree.map(lambda x: x[None], choice)
    else:
        carry, choices = jax.lax.scan(choose, carry, (logits_TBV, guess_TB, is_guessed_TB))
    rows, last_B, _, emitted_B = carry
    moved = EngineState(
        cache=constrain_cache(config, replace(grown, length_B=state.cache.length_B.at[:B].add(emitted_B)), mesh),
        last_B=state.last_B.at[:B].set(last_B),
        rows=rows,
    )
    return moved, StepResult(choices, emitted_B)
