"""From logits to a token: what a request may ask for, and the pure functions that do it for a whole batch.

Every setting is a traced vector with one entry per row, so that requests with different settings share one
compiled step. A row's noise depends on its own seed and on how many tokens it has generated, on nothing else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.errors import RequestError

MAX_LOGPROBS = 20  # OpenAI's bound on top_logprobs
SMALLEST, LARGEST = 1e-30, 1e30  # what a float32 holds with room to multiply; beyond it nothing changes
COLDEST = 1e-6  # nearly greedy; logits divided by less would overflow


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    The order is the field's usual one: penalties and bias, temperature, top-k, top-p, min-p, then a draw.

    Attributes:
        max_new_tokens: at least 1.
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k most likely tokens. None or 0 keeps all.
        top_p: keep the most likely tokens until their mass reaches p, in (0, 1] (arXiv:1904.09751).
        min_p: keep tokens at least min_p times as likely as the most likely one, in [0, 1] (arXiv:2407.01082).
        repetition_penalty: positive logits of seen tokens are divided by it, negative ones multiplied; over
            prompt and generated tokens (CTRL, arXiv:1909.05858). Above 0; 1 is off.
        presence_penalty, frequency_penalty: OpenAI's additive rule over generated tokens, -2 to 2.
        logit_bias: added to the logits of these ids, -100 to 100.
        seed: the same seed gives the same tokens. None draws a fresh one.
        stop_ids: generation ends when one of these is chosen.
        logprobs: report the chosen token's log-probability and this many alternatives, 0 to 20. None reports none.
    """

    max_new_tokens: int = 50
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check("max_new_tokens", lambda n: n >= 1, "at least 1")
        self._check("temperature", lambda t: 0 <= t < math.inf, "0 (greedy) or above")
        self._check("top_k", lambda k: k >= 0, "at least 1, or unset")
        self._check("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._check("min_p", lambda p: 0 <= p <= 1, "0 to 1")
        self._check("repetition_penalty", lambda r: 0 < r < math.inf, "above 0 (1 is off)")
        self._check("presence_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("frequency_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("logprobs", lambda n: 0 <= n <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}, or unset")
        for token, bias in (self.logit_bias or {}).items():
            if not -100 <= bias <= 100:
                raise RequestError(f"logit_bias of token {token} is {bias}; it must be -100 to 100.", "logit_bias")

    @property
    def adjusts_logits(self) -> bool:
        penalised = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalised or bool(self.logit_bias)

    def _check(self, name: str, holds: Callable[[float], bool], allowed: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise RequestError(f"{name} is {value}; it must be {allowed}.", name)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSettings:
    """SamplingParams as arrays, one entry per row; and what penalties need to know of a row's past.

    Attributes:
        temperature_B, top_p_B, min_p_B, repetition_B, presence_B, frequency_B: float32.
        top_k_B: int32, the vocabulary's size where off.
        seed_B2: uint32, the two words of a threefry key.
        drawn_B: int32, how many tokens the row has generated.
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


def sample(logits_BV: Array, rows: RowSettings, active_B: Array, allowed_BV: Array | None = None) -> Choice:
    """Chooses one token per row; the choices of rows that are not active mean nothing.

    What no active row asks for is not computed: an all-greedy batch pays for no filter and no noise.

    Args:
        logits_BV: float32.
        active_B: bool.
        allowed_BV: bool; tokens outside cannot be chosen (grammar masks). None allows all.
    """
    adjusted_BV = jax.lax.cond(
        jnp.any(active_B & rows.adjusts_B), lambda: adjust(logits_BV, rows), lambda: logits_BV
    )  # fmt: skip
    if allowed_BV is not None:
        adjusted_BV = jnp.where(allowed_BV, adjusted_BV, -jnp.inf)

    greedy_B = first_argmax(adjusted_BV)
    random_B = active_B & (rows.temperature_B > 0)
    token_B = jax.lax.cond(
        random_B.any(),
        lambda: jnp.where(random_B, draw(filter_logits(adjusted_BV, rows), rows), greedy_B),
        lambda: greedy_B,
    )
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
    )


def adjust(logits_BV: Array, rows: RowSettings) -> Array:
    """Penalties and bias, before temperature."""
    seen_BV = rows.in_prompt_BV | (rows.count_BV > 0)
    repetition_B1 = rows.repetition_B[:, None]
    shrunk_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, shrunk_BV, logits_BV)
    logits_BV -= rows.presence_B[:, None] * (rows.count_BV > 0) + rows.frequency_B[:, None] * rows.count_BV
    return logits_BV + rows.bias_BV


def filter_logits(logits_BV: Array, rows: RowSettings) -> Array:
    """Temperature, top-k, top-p, min-p: what may not be drawn becomes -inf. A greedy row is left as it is."""
    V = logits_BV.shape[1]
    temperature_B = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    logits_BV = logits_BV / temperature_B[:, None]

    def top_k() -> Array:
        ones = jnp.ones_like(logits_BV)
        return jnp.where(most_likely(logits_BV, ones, rows.top_k_B.astype(jnp.float32)), logits_BV, -jnp.inf)

    logits_BV = jax.lax.cond(jnp.any(rows.top_k_B < V), top_k, lambda: logits_BV)

    def top_p() -> Array:
        kept = most_likely(logits_BV, jax.nn.softmax(logits_BV, axis=-1), rows.top_p_B)
        return jnp.where(kept | (rows.top_p_B >= 1)[:, None], logits_BV, -jnp.inf)

    logits_BV = jax.lax.cond(jnp.any(rows.top_p_B < 1), top_p, lambda: logits_BV)
    floor_B1 = logits_BV.max(-1, keepdims=True) + jnp.log(rows.min_p_B)[:, None]  # log 0 = -inf: off
    return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)


def most_likely(logits_BV: Array, weight_BV: Array, target_B: Array) -> Array:
    """The shortest run of tokens, best logit first and equal logits by id, whose weights reach the target.

    With weights of one and target k this is top-k; with probabilities and p, top-p. Sorting 50,000 logits takes
    12 to 34 ms on a CPU, so the run's end is found bit by bit instead: first the least logit that belongs to it
    (32 passes over the bits of an order-preserving integer), then the last id among those that equal it.

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

    below_B = jax.lax.fori_loop(0, bits, id_bit, jnp.zeros(logits_BV.shape[0], jnp.int32))
    return above_BV | (equal_BV & (id_V <= below_B[:, None]))


def draw(logits_BV: Array, rows: RowSettings) -> Array:
    """One token per row from softmax(logits), by the Gumbel-max trick (arXiv:1611.01144, section 2)."""

    def noise(seed_2: Array, drawn: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed_2, impl="threefry2x32"), drawn)
        return jax.random.gumbel(key, logits_BV.shape[1:])

    return first_argmax(logits_BV + jax.vmap(noise)(rows.seed_B2, rows.drawn_B))


def first_argmax(x_BV: Array) -> Array:
    """The least id of the largest value. A max and a masked min are several times faster than XLA's argmax on CPU."""
    V = x_BV.shape[1]
    is_best = x_BV == x_BV.max(-1, keepdims=True)
    return jnp.where(is_best, jnp.arange(V, dtype=jnp.int32), V - 1).min(-1)


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
