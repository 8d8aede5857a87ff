"""The engine's device state, and the three pure functions that move it: admit, prefill, decode.

The state is donated to each of them, so that caches are updated in place. Shapes are static: the batch has
`max_batch` rows, prompts are padded to a bucket, and attention runs over a bucket of the longest live context.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.inference.sampling import Choice, RowSettings, SamplingParams, row_settings, sample
from llm_jax.model import KVCache, Params, forward_hidden, init_cache, merge


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


def init_state(config: ModelConfig, max_batch: int, max_len: int, dtype: str) -> EngineState:
    row = row_settings(SamplingParams(temperature=0.0), (), 0, config.vocab_size)
    return EngineState(
        cache=init_cache(config, max_batch, max_len, dtype),
        last_B=jnp.zeros(max_batch, jnp.int32),
        rows=jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), max_batch, axis=0), row),
    )


@partial(jax.jit, donate_argnums=0)
def admit(state: EngineState, row: Array, settings: RowSettings) -> EngineState:
    """Gives a row to a request: an empty cache and the request's settings (a batch of one)."""
    return replace(
        state,
        cache=replace(state.cache, length_B=state.cache.length_B.at[row].set(0)),
        rows=jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), state.rows, settings),
    )


@partial(jax.jit, static_argnames=("config", "dtype", "context"), donate_argnames="state")
def prefill(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    row: Array,
    tokens_T: Array,
    start: Array,
    count: Array,
    is_last: Array,
    allowed_1V: Array | None = None,
    *,
    dtype: str,
    context: int,
) -> tuple[EngineState, Choice]:
    """Runs one chunk of one row's prompt and chooses the token that would follow it.

    Only the last chunk's choice counts.

    Args:
        tokens_T: the chunk, padded on the right. Padding is computed and written too, behind the live tokens,
            where the next chunk or decode step overwrites it before anything attends to it.
        start: how many tokens the row holds already. count: how many of the T are real.
        is_last: bool, whether the prompt ends here.
        context: static, at least start + T rounded to its bucket.
    """

    def one_row(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, row, 1, axis=0)

    def cut(x_BKSH: Array) -> Array:
        return one_row(x_BKSH[:, :, :context])

    def paste(x_BKSH: Array, new_1KCH: Array) -> Array:
        return jax.lax.dynamic_update_slice(x_BKSH, new_1KCH, (row, 0, 0, 0))

    cache = state.cache
    own = KVCache([cut(k) for k in cache.keys], [cut(v) for v in cache.values], start[None])
    # A model that is not causal must not look at the padding; a causal one cannot.
    live = None if config.is_causal else (jnp.arange(context) < start + count)[None, None, None, :]
    hidden, grown = forward_hidden(config, params, tokens_T[None], cache=own, mask=live, dtype=dtype)
    assert grown is not None
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1, axis=1)[:, 0]
    settings = jax.tree.map(one_row, state.rows)
    choice, settings = sample(merge(config, params).head(last), settings, is_last[None], allowed_1V)
    return (
        EngineState(
            cache=KVCache(
                keys=[paste(k, new) for k, new in zip(cache.keys, grown.keys, strict=True)],
                values=[paste(v, new) for v, new in zip(cache.values, grown.values, strict=True)],
                length_B=cache.length_B.at[row].set(start + count),
            ),
            last_B=state.last_B.at[row].set(choice.token_B[0]),
            rows=jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), state.rows, settings),
        ),
        choice,
    )


@partial(jax.jit, static_argnames=("config", "dtype", "context"), donate_argnames="state")
def decode(
    config: ModelConfig,
    params: Params,
    state: EngineState,
    active_B: Array,
    allowed_BV: Array | None = None,
    *,
    dtype: str,
    context: int,
) -> tuple[EngineState, Choice]:
    """Feeds every row its last token and chooses the next; rows that are not active stay as they are.

    An inactive row's key and value are written behind its live tokens, where its next chunk overwrites them.

    Args:
        active_B: bool.
        context: static, above the longest active row's length.
    """
    hidden, cache = forward_hidden(
        config, params, state.last_B[:, None], cache=state.cache, context=context, dtype=dtype, active_B=active_B
    )  # fmt: skip
    assert cache is not None
    choice, rows = sample(merge(config, params).head(hidden[:, 0]), state.rows, active_B, allowed_BV)
    length_B = state.cache.length_B + active_B
    last_B = jnp.where(active_B, choice.token_B, state.last_B)
    return EngineState(cache=replace(cache, length_B=length_B), last_B=last_B, rows=rows), choice
