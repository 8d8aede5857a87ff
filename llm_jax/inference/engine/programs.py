"""The engine's compiled programs: pure functions of its device state.

`advance` runs the model and stops before its head; `choose` makes tokens of what it gives. So the head and the
sampler are compiled once for each size of the batch, not once more for each number of tokens. Caches and settings
are donated all along, so that they are updated in place. Shapes are static (`Buckets`).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import ModelConfig
from llm_jax.inference.engine.batch import Asked, Feed
from llm_jax.inference.engine.request import SamplingParams
from llm_jax.inference.engine.sampling import Choice, RowSettings, count, row_settings, sample
from llm_jax.inference.engine.shares import LAST
from llm_jax.model import KVCache, Params, forward_hidden, merge
from llm_jax.parallel import replicate

Carry = tuple[RowSettings, Array, Array]  # through the positions of a run: rows, alive, emitted


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


def empty_rows(count: int, vocab_size: int) -> RowSettings:
    """Settings of rows that nobody has."""
    row = row_settings(SamplingParams(temperature=0.0), (), 0, vocab_size)
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), count, axis=0), row)


@partial(jax.jit, donate_argnames="rows")
def admit(rows: RowSettings, row: Array, settings: RowSettings) -> RowSettings:
    """Gives a row to a request with these settings (a batch of one)."""
    return jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one[0]), rows, settings)


@partial(jax.jit, donate_argnames=("cache", "rows"))
def move_row(cache: KVCache, rows: RowSettings, source: Array, target: Array) -> tuple[KVCache, RowSettings]:
    """Copies everything of one slot over another, so that the occupied slots stand together."""
    return cache.move_slot(source, target), jax.tree.map(lambda x: x.at[target].set(x[source]), rows)


@partial(jax.jit, static_argnames=("config", "dtype", "context", "mesh"), donate_argnames="cache")
def advance(
    config: ModelConfig,
    params: Params,
    cache: KVCache,
    last_B: Array,
    feed: Feed,
    *,
    dtype: jnp.dtype,
    context: int,
    mesh: Mesh | None = None,
) -> tuple[KVCache, Array]:
    """Runs the model over pieces of prompts, the tokens that rows generated last, and guesses of what follows.

    Padding and wrong guesses leave keys and values behind a row's live tokens, where its next ones overwrite them
    before anything attends to them.

    Args:
        cache: what rows hold; how many tokens that is, `feed` says.
        last_B: int32, the token that each row generated last.
        context: static, at least what any row holds afterwards.

    Returns:
        hidden states [K, R, D] of the tokens that `feed` asks for.
    """
    layout = feed.layout
    token_BT = jnp.where(feed.token_BT == LAST, last_B[layout.sequences(feed.token_BT.shape)], feed.token_BT)
    hidden_BTD, grown = forward_hidden(
        config, params, token_BT, cache=cache, layout=layout, context=context, dtype=dtype
    )  # fmt: skip
    assert grown is not None
    hidden_PRD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[feed.out_PR]
    return grown, replicate(hidden_PRD, mesh)


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames="rows")
def choose(
    config: ModelConfig,
    params: Params,
    rows: RowSettings,
    hidden_PRD: Array,
    asked: Asked,
    *,
    mesh: Mesh | None = None,
) -> tuple[RowSettings, StepResult]:
    """The tokens that follow: the model's head and the sampler.

    At every position the token is chosen exactly as plain decoding would choose it: with the row's own noise for
    that position. A guess is right when it equals the choice, and then the position behind it counts too. So
    guessing changes how many tokens a step yields, and never which (speculative decoding, arXiv:2211.17192, with
    the noise held fixed instead of a rejection step).

    Args:
        params: those of the head will do.
        hidden_PRD: what `advance` gave; of its rows the first B, as many as `asked` has, are looked at.
    """
    first, B = asked.first, len(asked.active_B)
    logits_PBV = merge(config, params).head(hidden_PRD[:, :B])

    def own(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, first, B)

    def choose_one(carry: Carry, position: tuple[Array, Array, Array]) -> tuple[Carry, Choice]:
        rows, alive_B, emitted_B = carry
        logits_BV, guess_B, is_guessed_B = position
        choice = sample(logits_BV, jax.tree.map(own, rows), alive_B, asked.allowed_BV, asked.is_masked)
        rows = count(rows, first + jnp.arange(B), choice.token_B, alive_B)
        emitted_B += alive_B
        alive_B &= is_guessed_B & (choice.token_B == guess_B)
        return (rows, alive_B, emitted_B), choice

    # Behind the last guess stands one more position, whose choice nothing has guessed.
    guess_PB = jnp.pad(asked.drafts_BK, ((0, 0), (0, 1))).T
    is_guessed_PB = jnp.arange(len(guess_PB))[:, None] < asked.draft_count_B
    carry: Carry = (rows, asked.active_B, jnp.zeros(B, jnp.int32))
    if len(guess_PB) == 1:
        carry, choice = choose_one(carry, (logits_PBV[0], guess_PB[0], is_guessed_PB[0]))
        choices = jax.tree.map(lambda x: x[None], choice)
    else:
        carry, choices = jax.lax.scan(choose_one, carry, (logits_PBV, guess_PB, is_guessed_PB))
    rows, _, emitted_B = carry
    return replicate((rows, StepResult(choices, emitted_B)), mesh)
