"""From logits to a token, for a whole batch: pure functions.

Every setting is a traced vector with one entry per row, so that requests with different settings share one
compiled step. A row's noise depends on its own seed and on how many tokens it has generated, on nothing else.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.random import threefry_2x32

from llm_jax.inference.engine.request import MAX_LOGPROBS, SamplingParams

SMALLEST, LARGEST = 1e-30, 1e30  # what a float32 holds with room to multiply; beyond it nothing changes
COLDEST = 1e-6  # nearly greedy; logits divided by less would overflow


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSettings:
    """SamplingParams as arrays, one entry per row; and what penalties need to know of a row's past.

    Attributes:
        temperature_B, top_p_B, min_p_B, repetition_B, presence_B, frequency_B: float32.
        top_k_B: int32, the vocabulary's size where off.
        seed_B2: uint32, the two words of a threefry key.
        drawn_B: int32, how many tokens the row has generated; last_B: int32, the last of them.
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
    drawn_B: Array
    last_B: Array
    adjusts_B: Array
    wants_logprobs_B: Array
    bias_BV: Array
    in_prompt_BV: Array
    count_BV: Array


def row_settings(sampling: SamplingParams, prompt_ids: tuple[int, ...], seed: int, vocab_size: int) -> RowSettings:
    """One request's settings as a batch of one row (numpy)."""
    bias = np.zeros((1, vocab_size), np.float32)
    for token, value in (sampling.logit_bias or {}).items():
        bias[0, token] = value
    in_prompt = np.zeros((1, vocab_size), bool)
    in_prompt[0, list(prompt_ids)] = True
    temperature = sampling.temperature and min(max(sampling.temperature, COLDEST), LARGEST)
    arrays: dict[str, Any] = {
        "temperature_B": np.array([temperature], np.float32),
        "top_k_B": np.array([min(sampling.top_k or vocab_size, vocab_size)], np.int32),
        "top_p_B": np.array([1.0 if sampling.top_p is None else max(sampling.top_p, SMALLEST)], np.float32),
        "min_p_B": np.array([sampling.min_p or 0.0], np.float32),
        "repetition_B": np.array([min(max(sampling.repetition_penalty, SMALLEST), LARGEST)], np.float32),
        "presence_B": np.array([sampling.presence_penalty], np.float32),
        "frequency_B": np.array([sampling.frequency_penalty], np.float32),
        "seed_B2": np.array([[(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF]], np.uint32),
        "drawn_B": np.zeros(1, np.int32),
        "last_B": np.zeros(1, np.int32),
        "adjusts_B": np.array([sampling.adjusts_logits]),
        "wants_logprobs_B": np.array([sampling.logprobs is not None]),
        "bias_BV": bias,
        "in_prompt_BV": in_prompt,
        "count_BV": np.zeros((1, vocab_size), np.int32),
    }
    return RowSettings(**arrays)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Choice:
    """What was chosen in one step.

    Attributes:
        token_B: int32.
        logprob_B: float32, of the model's own distribution (before penalties and temperature).
        top_BA, top_logprob_BA: the A = 20 most likely tokens and their log-probabilities.
            All log-probabilities are zeros unless some active row wants them.
    """

    token_B: Array
    logprob_B: Array
    top_BA: Array
    top_logprob_BA: Array


def sample(
    logits_BV: Array,
    rows: RowSettings,
    active_B: Array,
    allowed_BV: Array,
    is_masked: Array,
    *,
    candidates: int = 256,
) -> Choice:
    """Chooses one token per row; the choices of rows that are not active mean nothing.

    What no active row asks for is not computed: an all-greedy batch pays for no filter and no noise.

    Args:
        logits_BV: float32.
        active_B: bool.
        allowed_BV: bool; tokens outside cannot be chosen (grammar masks).
        is_masked: bool; False says that all are allowed.
        candidates: how many of a row's best tokens are looked at before all are.
    """
    random_B = active_B & (rows.temperature_B > 0)
    changes = is_masked | jnp.any(active_B & rows.adjusts_B)

    def choose() -> Array:
        changed_BV = jax.lax.cond(
            changes, lambda: jnp.where(allowed_BV, adjust(logits_BV, rows), -jnp.inf), lambda: logits_BV
        )  # fmt: skip
        greedy_B = first_argmax(changed_BV)
        return jax.lax.cond(
            random_B.any(),
            lambda: jnp.where(random_B, draw(changed_BV, rows, random_B, candidates), greedy_B),
            lambda: greedy_B,
        )

    token_B = jax.lax.cond(changes | random_B.any(), choose, lambda: first_argmax(logits_BV))
    return jax.lax.cond(
        jnp.any(active_B & rows.wants_logprobs_B), _with_logprobs, _without, logits_BV, token_B
    )  # fmt: skip


def count(rows: RowSettings, row_B: Array, token_B: Array, active_B: Array) -> RowSettings:
    """Notes that the rows `row_B` have generated these tokens, where active."""
    grown_B = active_B.astype(jnp.int32)
    return replace(
        rows,
        count_BV=rows.count_BV.at[row_B, token_B].add(grown_B),
        drawn_B=rows.drawn_B.at[row_B].add(grown_B),
        last_B=rows.last_B.at[row_B].set(jnp.where(active_B, token_B, rows.last_B[row_B])),
    )


def adjust(logits_BV: Array, rows: RowSettings) -> Array:
    """Penalties and bias, before temperature."""
    seen_BV = rows.in_prompt_BV | (rows.count_BV > 0)
    repetition_B1 = rows.repetition_B[:, None]
    shrunk_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, shrunk_BV, logits_BV)
    logits_BV -= rows.presence_B[:, None] * (rows.count_BV > 0) + rows.frequency_B[:, None] * rows.count_BV
    return logits_BV + rows.bias_BV


def draw(logits_BV: Array, rows: RowSettings, random_B: Array, candidates: int) -> Array:
    """One token per row from what top-k, top-p and min-p leave of softmax(logits / temperature).

    By the Gumbel-max trick (arXiv:1611.01144, section 2). Sorting 50,000 logits or making noise for all of them takes
    milliseconds, so it is done for the best few alone where a row's filters leave no others. Which of the two
    searches gives a row's token depends on that row alone: they round differently.

    Args:
        random_B: bool, the rows that count.
    """
    temperature_B = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    logits_BV = logits_BV / temperature_B[:, None] + 0.0  # so that zeros of both signs are equal
    is_filtered_B = (rows.top_k_B < logits_BV.shape[1]) | (rows.top_p_B < 1) | (rows.min_p_B > 0)
    token_B, is_drawn_B = jax.lax.cond(
        jnp.any(random_B & is_filtered_B),
        lambda: draw_among_best(logits_BV, rows, candidates),
        lambda: (jnp.zeros_like(rows.drawn_B), jnp.zeros_like(random_B)),
    )
    is_drawn_B &= is_filtered_B
    left_B = random_B & ~is_drawn_B
    return jax.lax.cond(
        left_B.any(),
        lambda: jnp.where(is_drawn_B, token_B, draw_among_all(logits_BV, rows, left_B)),
        lambda: token_B,
    )


def draw_among_best(logits_BV: Array, rows: RowSettings, candidates: int) -> tuple[Array, Array]:
    """Tokens, and for which rows they count: those whose filters leave none but the best few."""
    V = logits_BV.shape[1]
    best_BC, id_BC = jax.lax.top_k(logits_BV, min(candidates, V))  # equal ones by id
    C = best_BC.shape[1]
    first_B1 = best_BC.max(-1, keepdims=True)  # best_BC[:, :1] would make XLA sort all logits
    top_k_B1, top_p_B1 = rows.top_k_B[:, None], rows.top_p_B[:, None]
    kept_BC = jnp.arange(C) < top_k_B1
    weight_BC = jnp.where(kept_BC, jnp.exp(best_BC - first_B1), 0)
    total_B1 = jnp.where(
        top_k_B1 <= C, weight_BC.sum(-1, keepdims=True), jnp.exp(logits_BV - first_B1).sum(-1, keepdims=True)
    )
    before_BC = jnp.pad(jnp.cumsum(weight_BC, axis=1), ((0, 0), (1, 0)))[:, :-1]
    kept_BC &= (before_BC < top_p_B1 * total_B1) | (top_p_B1 >= 1)
    kept_BC &= best_BC >= first_B1 + jnp.log(rows.min_p_B)[:, None]  # log 0 = -inf: off
    noisy_BC = jnp.where(kept_BC, best_BC + noise(rows, id_BC), -jnp.inf)
    token_B = jnp.where(noisy_BC == noisy_BC.max(-1, keepdims=True), id_BC, V - 1).min(-1)
    return token_B, (rows.top_k_B <= C) | ((rows.top_k_B == V) & ~kept_BC.all(-1))


def draw_among_all(logits_BV: Array, rows: RowSettings, left_B: Array) -> Array:
    """Tokens of the rows `left_B`, whatever their filters."""
    V = logits_BV.shape[1]

    def keep(weight_BV: Array, target_B: Array, is_on_B: Array) -> Array:
        kept_BV = most_likely(logits_BV, weight_BV, jnp.where(is_on_B, target_B, 0.0))
        return jnp.where(kept_BV | ~is_on_B[:, None], logits_BV, -jnp.inf)

    wants_k_B, wants_p_B = left_B & (rows.top_k_B < V), left_B & (rows.top_p_B < 1)
    logits_BV = jax.lax.cond(
        wants_k_B.any(),
        lambda: keep(jnp.ones_like(logits_BV), rows.top_k_B.astype(jnp.float32), wants_k_B),
        lambda: logits_BV,
    )
    logits_BV = jax.lax.cond(
        wants_p_B.any(),
        lambda: keep(jax.nn.softmax(logits_BV, axis=-1), rows.top_p_B, wants_p_B),
        lambda: logits_BV,
    )
    floor_B1 = logits_BV.max(-1, keepdims=True) + jnp.log(rows.min_p_B)[:, None]  # log 0 = -inf: off
    noise_BV = noise(rows, jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32), logits_BV.shape))
    return first_argmax(jnp.where(logits_BV >= floor_B1, logits_BV + noise_BV, -jnp.inf))


def most_likely(logits_BV: Array, weight_BV: Array, target_B: Array) -> Array:
    """The shortest run of tokens, best logit first and equal logits by id, whose weights reach the target.

    With weights of one and target k this is top-k; with probabilities and p, top-p. The end of the run is found bit
    by bit: first its least logit (32 passes over the bits of an order-preserving integer), then the last id among
    those that equal it.

    Returns:
        bool [B, V].
    """
    order_BV = _ordered_bits(logits_BV)

    def heavy_enough(kept_BV: Array) -> Array:
        return jnp.where(kept_BV, weight_BV, 0).sum(-1) >= target_B

    def value_bit(i: Array, least_B: Array) -> Array:
        trial_B = least_B | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(heavy_enough(order_BV >= trial_B[:, None]), trial_B, least_B)

    least_B = jax.lax.fori_loop(0, 32, value_bit, jnp.zeros(logits_BV.shape[0], jnp.uint32))
    above_BV, equal_BV = order_BV > least_B[:, None], order_BV == least_B[:, None]

    V = logits_BV.shape[1]
    id_V = jnp.arange(V, dtype=jnp.int32)
    bits = V.bit_length()

    def id_bit(i: Array, below_B: Array) -> Array:
        # The largest bound such that the ids below it do not suffice; the id at the bound is then the last one.
        trial_B = below_B | (jnp.int32(1) << (bits - 1 - i))
        return jnp.where(heavy_enough(above_BV | (equal_BV & (id_V < trial_B[:, None]))), below_B, trial_B)

    last_B = jax.lax.fori_loop(0, bits, id_bit, jnp.zeros(logits_BV.shape[0], jnp.int32))
    return above_BV | (equal_BV & (id_V <= last_B[:, None]))


def noise(rows: RowSettings, id_BC: Array) -> Array:
    """Gumbel noise for these tokens: a hash of the row's seed, of how many it has drawn, and of the token's id."""

    def bits(seed_2: Array, drawn: Array, id_C: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed_2, impl="threefry2x32"), drawn)
        counts = jnp.concatenate([jnp.zeros_like(id_C), id_C]).astype(jnp.uint32)
        high_C, low_C = jnp.split(threefry_2x32(jax.random.key_data(key), counts), 2)
        return high_C ^ low_C

    bits_BC = jax.vmap(bits)(rows.seed_B2, rows.drawn_B, id_BC)
    one_to_two_BC = jax.lax.bitcast_convert_type(bits_BC >> 9 | jnp.uint32(0x3F800000), jnp.float32)
    return -jnp.log(-jnp.log(jnp.maximum(one_to_two_BC - 1, jnp.finfo(jnp.float32).tiny)))


def first_argmax(x_BV: Array, *, window: int = 256) -> Array:
    """The least id of the largest value: of the first window that holds it, the first place.

    XLA's CPU backend reads x once for this. Its argmax is ten times slower, a max and a masked min over the whole
    of x four times.
    """
    V = x_BV.shape[1]
    window = min(window, V)
    padding = ((0, 0), (0, -V % window))
    best_BW = jax.lax.reduce_window(x_BV, -jnp.inf, jax.lax.max, (1, window), (1, window), padding)
    best_B1 = best_BW.max(-1, keepdims=True)
    start_B1 = jnp.minimum(_first(best_BW == best_B1)[:, None] * window, V - window)
    values_BW = jnp.take_along_axis(x_BV, start_B1 + jnp.arange(window, dtype=jnp.int32), 1)
    return start_B1[:, 0] + _first(values_BW == best_B1)


def _first(is_it_BW: Array) -> Array:
    """The least index of what is true; the last of all where nothing is."""
    W = is_it_BW.shape[1]
    return jnp.where(is_it_BW, jnp.arange(W, dtype=jnp.int32), W - 1).min(-1)


def _ordered_bits(x: Array) -> Array:
    """float32 -> uint32 with the same order."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # + 0.0 makes -0.0 equal 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(0x80000000))


def _with_logprobs(logits_BV: Array, token_B: Array) -> Choice:
    logprob_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    top_logprob_BA, top_BA = jax.lax.top_k(logprob_BV, min(MAX_LOGPROBS, logits_BV.shape[1]))
    return Choice(token_B, jnp.take_along_axis(logprob_BV, token_B[:, None], -1)[:, 0], top_BA, top_logprob_BA)


def _without(logits_BV: Array, token_B: Array) -> Choice:
    B, A = logits_BV.shape[0], min(MAX_LOGPROBS, logits_BV.shape[1])
    return Choice(token_B, jnp.zeros(B), jnp.zeros((B, A), jnp.int32), jnp.zeros((B, A)))
