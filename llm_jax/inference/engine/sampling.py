"""From logits to tokens, for a whole batch: pure functions.

Every setting is a traced vector with one entry per slot, so that requests with different settings share one compiled
program. A slot's noise depends on its own seed and on how many tokens it has generated, on nothing else.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import threefry_2x32

from llm_jax.inference.engine.request import MAX_LOGPROBS
from llm_jax.inference.engine.sampling_state import SamplingState

_CANDIDATES = 256  # best logits that filters look at first: a top-k of 256 is fast, and few settings leave more tokens
_WINDOW = 256  # logits of an argmax window: about the square root of a vocabulary, so that both searches are short


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledTokens:
    """One sampled token per slot.

    Attributes:
        token_B: int32.
        logprob_B: float32, of the model's own distribution (before penalties and temperature).
        top_BA, top_logprob_BA: the A = 20 most likely tokens and their log-probabilities.
            All log-probabilities are zeros unless an active slot asks for them.
    """

    token_B: Array
    logprob_B: Array
    top_BA: Array
    top_logprob_BA: Array


def sample(
    logits_BV: Array,
    state: SamplingState,
    active_B: Array,
    allowed_BV: Array,
    is_masked: Array,
    *,
    candidates: int = _CANDIDATES,
) -> SampledTokens:
    """Samples one token per slot; those of inactive slots are arbitrary.

    What no active slot asks for is not computed: an all-greedy batch computes no filter and no noise.

    Args:
        logits_BV: float32.
        active_B: bool.
        allowed_BV: bool, the tokens that may be sampled (grammar masks).
        is_masked: bool, False if these are all.
        candidates: how many of a slot's best tokens the filters look at before they look at all.
    """
    random_B = active_B & (state.temperature_B > 0)
    is_adjusted = is_masked | jnp.any(active_B & state.adjusts_B)

    def adjusted() -> Array:
        return jnp.where(allowed_BV, _adjust(logits_BV, state), -jnp.inf)

    def choose() -> Array:
        adjusted_BV = jax.lax.cond(is_adjusted, adjusted, lambda: logits_BV)
        greedy_B = first_argmax(adjusted_BV)
        return jax.lax.cond(
            random_B.any(),
            lambda: jnp.where(random_B, _draw(adjusted_BV, state, random_B, candidates), greedy_B),
            lambda: greedy_B,
        )

    token_B = jax.lax.cond(is_adjusted | random_B.any(), choose, lambda: first_argmax(logits_BV))
    wants_logprobs = jnp.any(active_B & state.wants_logprobs_B)
    return jax.lax.cond(wants_logprobs, _with_logprobs, _without_logprobs, logits_BV, token_B)


def _adjust(logits_BV: Array, state: SamplingState) -> Array:
    """Penalties and bias, before temperature."""
    seen_BV = state.in_prompt_BV | (state.count_BV > 0)
    repetition_B1 = state.repetition_B[:, None]
    shrunk_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, shrunk_BV, logits_BV)
    logits_BV -= state.presence_B[:, None] * (state.count_BV > 0) + state.frequency_B[:, None] * state.count_BV
    return logits_BV + state.bias_BV


def _draw(logits_BV: Array, state: SamplingState, random_B: Array, candidates: int) -> Array:
    """One token per slot from what top-k, top-p and min-p leave of softmax(logits / temperature).

    By the Gumbel-max trick (arXiv:1611.01144, section 2). Sorting 50,000 logits or making noise for all of them takes
    milliseconds, so it is done for the best few alone where a slot's filters leave no others. Which of the two searches
    gives a slot's token depends on that slot alone: they round differently.

    Args:
        random_B: bool, the slots that need one.
    """
    temperature_B = jnp.where(state.temperature_B > 0, state.temperature_B, 1.0)
    logits_BV = logits_BV / temperature_B[:, None] + 0.0  # so that zeros of both signs are equal
    is_filtered_B = (state.top_k_B < logits_BV.shape[1]) | (state.top_p_B < 1) | (state.min_p_B > 0)
    token_B, is_drawn_B = jax.lax.cond(
        jnp.any(random_B & is_filtered_B),
        lambda: _draw_among_best(logits_BV, state, candidates),
        lambda: (jnp.zeros_like(state.generated_B), jnp.zeros_like(random_B)),
    )
    is_drawn_B &= is_filtered_B
    left_B = random_B & ~is_drawn_B
    return jax.lax.cond(
        left_B.any(),
        lambda: jnp.where(is_drawn_B, token_B, _draw_among_all(logits_BV, state, left_B)),
        lambda: token_B,
    )


def _draw_among_best(logits_BV: Array, state: SamplingState, candidates: int) -> tuple[Array, Array]:
    """Tokens, and for which slots they are valid: those whose filters leave none but the best few."""
    V = logits_BV.shape[1]
    best_BC, id_BC = jax.lax.top_k(logits_BV, min(candidates, V))  # equal ones by id
    C = best_BC.shape[1]
    first_B1 = best_BC.max(-1, keepdims=True)  # best_BC[:, :1] would make XLA sort all logits
    top_k_B1, top_p_B1 = state.top_k_B[:, None], state.top_p_B[:, None]
    keep_BC = jnp.arange(C) < top_k_B1
    weight_BC = jnp.where(keep_BC, jnp.exp(best_BC - first_B1), 0)
    total_B1 = jnp.where(
        top_k_B1 <= C, weight_BC.sum(-1, keepdims=True), jnp.exp(logits_BV - first_B1).sum(-1, keepdims=True)
    )
    before_BC = jnp.pad(jnp.cumsum(weight_BC, axis=1), ((0, 0), (1, 0)))[:, :-1]
    keep_BC &= (before_BC < top_p_B1 * total_B1) | (top_p_B1 >= 1)
    keep_BC &= best_BC >= first_B1 + jnp.log(state.min_p_B)[:, None]  # log 0 = -inf: off
    noisy_BC = jnp.where(keep_BC, best_BC + _noise(state, id_BC), -jnp.inf)
    token_B = jnp.where(noisy_BC == noisy_BC.max(-1, keepdims=True), id_BC, V - 1).min(-1)
    return token_B, (state.top_k_B <= C) | ((state.top_k_B == V) & ~keep_BC.all(-1))


def _draw_among_all(logits_BV: Array, state: SamplingState, left_B: Array) -> Array:
    """Tokens of the slots `left_B`, whatever their filters."""
    V = logits_BV.shape[1]

    def filtered(weight_BV: Array, target_B: Array, is_on_B: Array) -> Array:
        keep_BV = most_likely(logits_BV, weight_BV, jnp.where(is_on_B, target_B, 0.0))
        return jnp.where(keep_BV | ~is_on_B[:, None], logits_BV, -jnp.inf)

    wants_k_B, wants_p_B = left_B & (state.top_k_B < V), left_B & (state.top_p_B < 1)
    logits_BV = jax.lax.cond(
        wants_k_B.any(),
        lambda: filtered(jnp.ones_like(logits_BV), state.top_k_B.astype(jnp.float32), wants_k_B),
        lambda: logits_BV,
    )
    logits_BV = jax.lax.cond(
        wants_p_B.any(),
        lambda: filtered(jax.nn.softmax(logits_BV, axis=-1), state.top_p_B, wants_p_B),
        lambda: logits_BV,
    )
    floor_B1 = logits_BV.max(-1, keepdims=True) + jnp.log(state.min_p_B)[:, None]  # log 0 = -inf: off
    noise_BV = _noise(state, jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32), logits_BV.shape))
    return first_argmax(jnp.where(logits_BV >= floor_B1, logits_BV + noise_BV, -jnp.inf))


def most_likely(logits_BV: Array, weight_BV: Array, target_B: Array) -> Array:
    """The smallest set of most likely tokens, best logit first and equal logits by id, whose weights reach the target.

    With weights of one and target k this is top-k; with probabilities and p, top-p. The end of the set is found bit
    by bit: first its least logit (32 passes over the bits of an order-preserving integer), then the last id among
    those that equal it.

    Returns:
        bool [B, V].
    """
    order_BV = _ordered_bits(logits_BV)

    def reaches_target(keep_BV: Array) -> Array:
        return jnp.where(keep_BV, weight_BV, 0).sum(-1) >= target_B

    def value_bit(i: Array, least_B: Array) -> Array:
        trial_B = least_B | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(reaches_target(order_BV >= trial_B[:, None]), trial_B, least_B)

    least_B = jax.lax.fori_loop(0, 32, value_bit, jnp.zeros(logits_BV.shape[0], jnp.uint32))
    above_BV, equal_BV = order_BV > least_B[:, None], order_BV == least_B[:, None]

    V = logits_BV.shape[1]
    id_V = jnp.arange(V, dtype=jnp.int32)
    bits = V.bit_length()

    def id_bit(i: Array, below_B: Array) -> Array:
        # The largest bound such that the ids below it do not suffice; the id at the bound is then the last one.
        trial_B = below_B | (jnp.int32(1) << (bits - 1 - i))
        return jnp.where(reaches_target(above_BV | (equal_BV & (id_V < trial_B[:, None]))), below_B, trial_B)

    last_B = jax.lax.fori_loop(0, bits, id_bit, jnp.zeros(logits_BV.shape[0], jnp.int32))
    return above_BV | (equal_BV & (id_V <= last_B[:, None]))


def _noise(state: SamplingState, id_BC: Array) -> Array:
    """Gumbel noise for these tokens: a hash of the slot's seed, its number of generated tokens, and the token's id."""

    def bits(seed_2: Array, generated: Array, id_C: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed_2, impl="threefry2x32"), generated)
        counts = jnp.concatenate([jnp.zeros_like(id_C), id_C]).astype(jnp.uint32)
        high_C, low_C = jnp.split(threefry_2x32(jax.random.key_data(key), counts), 2)
        return high_C ^ low_C

    bits_BC = jax.vmap(bits)(state.seed_B2, state.generated_B, id_BC)
    one_to_two_BC = jax.lax.bitcast_convert_type(bits_BC >> 9 | jnp.uint32(0x3F800000), jnp.float32)
    return -jnp.log(-jnp.log(jnp.maximum(one_to_two_BC - 1, jnp.finfo(jnp.float32).tiny)))


def first_argmax(x_BV: Array, *, window: int = _WINDOW) -> Array:
    """The least id of the largest value, found in the first window that contains it.

    XLA's CPU backend reads x once for this. Its argmax is ten times slower, a max and a masked min over the whole of x
    four times.
    """
    V = x_BV.shape[1]
    window = min(window, V)
    padding = ((0, 0), (0, -V % window))
    best_BW = jax.lax.reduce_window(x_BV, -jnp.inf, jax.lax.max, (1, window), (1, window), padding)
    best_B1 = best_BW.max(-1, keepdims=True)
    start_B1 = jnp.minimum(_first_true(best_BW == best_B1)[:, None] * window, V - window)
    in_window_BV = jnp.take_along_axis(x_BV, start_B1 + jnp.arange(window, dtype=jnp.int32), 1)
    return start_B1[:, 0] + _first_true(in_window_BV == best_B1)


def _first_true(is_true_BW: Array) -> Array:
    """The least index of a True along the last axis; the last index where there is none."""
    W = is_true_BW.shape[1]
    return jnp.where(is_true_BW, jnp.arange(W, dtype=jnp.int32), W - 1).min(-1)


def _ordered_bits(x: Array) -> Array:
    """float32 -> uint32 with the same order."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # + 0.0 makes -0.0 equal 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(0x80000000))


def _with_logprobs(logits_BV: Array, token_B: Array) -> SampledTokens:
    logprob_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    top_logprob_BA, top_BA = jax.lax.top_k(logprob_BV, min(MAX_LOGPROBS, logits_BV.shape[1]))
    return SampledTokens(token_B, jnp.take_along_axis(logprob_BV, token_B[:, None], -1)[:, 0], top_BA, top_logprob_BA)


def _without_logprobs(logits_BV: Array, token_B: Array) -> SampledTokens:
    B, A = logits_BV.shape[0], min(MAX_LOGPROBS, logits_BV.shape[1])
    return SampledTokens(token_B, jnp.zeros(B), jnp.zeros((B, A), jnp.int32), jnp.zeros((B, A)))
