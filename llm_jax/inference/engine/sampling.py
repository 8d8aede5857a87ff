"""From logits to tokens, for a whole batch: pure functions.

Every setting is a traced vector with one entry per row, so that requests with different settings share one compiled
program. A row's random numbers depend on its own seed and on how many tokens it has generated, on nothing else.

A token is drawn down a tree: the weights of 32 tokens each are added up, then 32 such sums each, and so on; from the
top down, one of 32 children is drawn at a time. So the logits are read once or twice and few random numbers are needed:
noise for 50,000 tokens, sorting them or adding them up one by one takes milliseconds.

top-p and min-p keep the most likely tokens, and where those end need not be found: a token is drawn among all; if it
is not one of them, the next is drawn among the more likely ones, and so on. That is exact: what is drawn among always
contains all that remain, each with its own weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.inference.engine.request import MAX_LOGPROBS
from llm_jax.inference.engine.sampling_state import SamplingState
from llm_jax.kernels import first_argmax, threefry

_T = TypeVar("_T")
_CANDIDATES = 64  # a top-k of at most so many is found among so many groups of logits, a larger one by counting
_NOISE = 1 << 10  # random numbers of an attempt, at most
_GROUP = 32  # children of a node in the tree that tokens are drawn from; tokens of a word of a packed mask


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledTokens:
    """One sampled token per row.

    Attributes:
        token_B: int32.
        is_finite_B: bool; False where a logit that counts is infinite or not a number, or none is left to sample.
            Then the token is arbitrary.
        logprobs: of the model's own distribution (before penalties and temperature), see `token_logprobs`; zeros unless
            an active row asks for them.
    """

    token_B: Array
    is_finite_B: Array
    logprobs: tuple[Array, Array, Array]


def sample(
    logits_BV: Array,
    state: SamplingState,
    slot_B: Array,
    active_B: Array,
    allowed_BW: Array,
    is_masked: Array,
    *,
    candidates: int = _CANDIDATES,
) -> SampledTokens:
    """Samples one token per row; those of inactive rows are arbitrary.

    What no active row asks for is not computed: an all-greedy batch computes nothing but its argmax.

    Args:
        logits_BV: float32.
        slot_B: int32, the slot of each row in `state`.
        active_B: bool.
        allowed_BW: uint32, the tokens that may be sampled: bit i of word j is token 32 j + i.
        is_masked: bool, False if these are all.
    """
    rows = state.at(slot_B)
    random_B = active_B & (rows.temperature_B > 0)
    is_adjusted = is_masked | jnp.any(active_B & rows.adjusts_B)

    def of_adjusted(function: Callable[[Array], _T]) -> _T:
        def adjusted() -> _T:
            # What is gathered in here costs nothing where nothing is adjusted.
            adjusted_BV = _adjust(logits_BV, state.at(slot_B))
            return function(jnp.where(unpack(allowed_BW, logits_BV.shape[1]), adjusted_BV, -jnp.inf))

        return jax.lax.cond(is_adjusted, adjusted, lambda: function(logits_BV))

    def draw() -> tuple[Array, Array]:
        greedy_B, best_B, weight_BV = of_adjusted(lambda logits_BV: _weigh(logits_BV, rows))
        drawn_B = _draw(weight_BV, greedy_B, rows, random_B & jnp.isfinite(best_B), candidates)
        return jnp.where(random_B, drawn_B, greedy_B), best_B

    token_B, best_B = jax.lax.cond(random_B.any(), draw, lambda: of_adjusted(first_argmax))
    wants_logprobs = jnp.any(active_B & rows.wants_logprobs_B)
    logprobs = jax.lax.cond(wants_logprobs, token_logprobs, _no_logprobs, logits_BV, token_B)
    return SampledTokens(token_B, jnp.isfinite(best_B), logprobs)


def unpack(allowed_BW: Array, V: int) -> Array:
    """bool [B, V] of packed masks."""
    bit_BWI = (allowed_BW[:, :, None] >> jnp.arange(_GROUP, dtype=jnp.uint32)) & 1
    return bit_BWI.reshape(len(allowed_BW), -1)[:, :V] == 1


def _adjust(logits_BV: Array, state: SamplingState) -> Array:
    """Penalties and bias, before temperature."""
    seen_BV = state.in_prompt_BV | (state.count_BV > 0)
    repetition_B1 = state.repetition_B[:, None]
    shrunk_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV, shrunk_BV, logits_BV)
    logits_BV -= state.presence_B[:, None] * (state.count_BV > 0) + state.frequency_B[:, None] * state.count_BV
    return logits_BV + state.bias_BV


def _weigh(logits_BV: Array, rows: SamplingState) -> tuple[Array, Array, Array]:
    """The most likely tokens, their logits, and the weights that the temperature gives to all: theirs are 1."""
    greedy_B, best_B = first_argmax(logits_BV)
    temperature_B = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    return greedy_B, best_B, jnp.exp((logits_BV - best_B[:, None]) / temperature_B[:, None])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Before:
    """The tokens of each row that come before one in the order of likelihood: largest weight first, equal ones by id.

    Attributes:
        weight_B: float32. id_B: int32.
    """

    weight_B: Array
    id_B: Array

    def only(self, weight_BC: Array, id_BC: Array) -> Array:
        """The weights, 0 where the token is none of these."""
        weight_B1, id_B1 = self.weight_B[:, None], self.id_B[:, None]
        is_before_BC = (weight_BC > weight_B1) | ((weight_BC == weight_B1) & (id_BC < id_B1))
        return jnp.where(is_before_BC, weight_BC, 0)


def _draw(weight_BV: Array, greedy_B: Array, rows: SamplingState, random_B: Array, candidates: int) -> Array:
    """One token per row from what top-k, top-p and min-p leave of these weights.

    Args:
        greedy_B: the most likely token, which is always left.
        random_B: bool, the rows that need a token; their largest weight is 1.
    """
    V = weight_BV.shape[1]
    is_filtered_B = (rows.top_p_B < 1) | (rows.min_p_B > 0)
    wants_k_B = random_B & (rows.top_k_B < V)

    def top_k() -> tuple[_Before, list[Array]]:
        among = top_k_end(weight_BV, jnp.where(wants_k_B, rows.top_k_B, V), candidates)
        return among, _tree(weight_BV, among)

    def everything() -> tuple[_Before, list[Array]]:
        return _Before(jnp.full_like(rows.top_p_B, -1), jnp.zeros_like(rows.top_k_B)), _tree(weight_BV)

    among, levels = jax.lax.cond(wants_k_B.any(), top_k, everything)
    total_B = levels[-1].sum(-1)

    def is_any_left(carry: _Attempt) -> Array:
        return carry[1].any()

    def attempt(carry: _Attempt) -> _Attempt:
        number, left_B, token_B, among, levels = carry
        drawn = _descend(weight_BV, among, levels, _exponentials(rows, number, 1 + len(levels)))
        token_B = jnp.where(left_B, drawn.id_B, token_B)
        left_B &= is_filtered_B & (drawn.id_B != greedy_B)
        levels = jax.lax.cond(left_B.any(), lambda: _tree(weight_BV, drawn), lambda: levels)
        is_in_top_p_B = (rows.top_p_B >= 1) | (levels[-1].sum(-1) < rows.top_p_B * total_B)
        left_B &= ~(is_in_top_p_B & (drawn.weight_B >= rows.min_p_B))
        return number + 1, left_B, token_B, drawn, levels

    first = (jnp.uint32(0), random_B, jnp.zeros_like(rows.top_k_B), among, levels)
    return jax.lax.while_loop(is_any_left, attempt, first)[2]


_Attempt = tuple[Array, Array, Array, _Before, list[Array]]  # number, rows that need one, tokens, the weights left


def _tree(weight_BV: Array, among: _Before | None = None) -> list[Array]:
    """Sums of 32 weights each, then 32 such sums each, until there are at most 32; of those that are among these alone.

    Node n of N has the children n, n + N, n + 2 N, …: so XLA adds whole slices, three times as fast as neighbours. For
    the few sums above the lowest, slices would only take longer to compile.
    """
    levels: list[Array] = []
    below_BC = weight_BV
    while not levels or below_BC.shape[1] > _GROUP:
        B, C = below_BC.shape
        N = -(-C // _GROUP)
        if levels:
            below_BC = jnp.pad(below_BC, ((0, 0), (0, N * _GROUP - C))).reshape(B, _GROUP, N).sum(1)
        else:
            slices = [below_BC[:, start : start + N] for start in range(0, C, N)]
            if among is not None:  # slice by slice: XLA would write what is left of all, and then read it
                ids = [jnp.arange(start, min(start + N, C), dtype=jnp.int32)[None] for start in range(0, C, N)]
                slices = [among.only(x_BN, id_1N) for x_BN, id_1N in zip(slices, ids, strict=True)]
            slices[-1] = jnp.pad(slices[-1], ((0, 0), (0, N - slices[-1].shape[1])))
            below_BC = sum(slices[1:], start=slices[0])
        levels.append(below_BC)
    return levels


def _descend(weight_BV: Array, among: _Before, levels: list[Array], noise_NBI: Array) -> _Before:
    """Draws a token; `levels` is the tree of the weights that it is drawn among."""
    node_B = jnp.zeros_like(among.id_B)
    nodes = 1
    for level_BN, noise_BI in zip(reversed(levels), noise_NBI[1:], strict=True):
        id_BI, sum_BI = _children(level_BN, node_B, nodes)
        node_B, nodes = _take(id_BI, _race(sum_BI, noise_BI)), level_BN.shape[1]
    id_BI, weight_BI = _children(weight_BV, node_B, nodes)
    index_B = _race(among.only(weight_BI, id_BI), noise_NBI[0])
    return _Before(_take(weight_BI, index_B), _take(id_BI, index_B))


def _children(x_BC: Array, node_B: Array, nodes: int) -> tuple[Array, Array]:
    """Indices and values of each node's 32 children; 0 behind the last."""
    index_BI = node_B[:, None] + nodes * jnp.arange(_GROUP, dtype=jnp.int32)
    return index_BI, jnp.take_along_axis(x_BC, index_BI, 1, mode="fill", fill_value=0)


def _take(x_BI: Array, index_B: Array) -> Array:
    return jnp.take_along_axis(x_BI, index_B[:, None], 1)[:, 0]


def _race(weight_BI: Array, noise_BI: Array) -> Array:
    """An index, each with probability weight / sum of weights; none of weight 0 where another has more.

    The least of independent exponential variables of rates w is the i-th with probability w_i / sum of w.
    """
    return (weight_BI / noise_BI).argmax(-1).astype(jnp.int32)


def _exponentials(rows: SamplingState, attempt: Array, levels: int) -> Array:
    """Exponential variables [levels, B, 32], by a row's seed, its number of generated tokens and the attempt.

    They are as fine as 32 bits allow where they are small, which is where rare tokens are drawn. None is 0 or infinite.
    """
    index_NBI = jnp.arange(levels * _GROUP, dtype=jnp.uint32).reshape(levels, 1, _GROUP) + attempt * _NOISE
    generated_B1 = rows.generated_B.astype(jnp.uint32)[:, None]
    bits_NBI, _ = threefry(rows.seed_B2[:, :1], rows.seed_B2[:, 1:], generated_B1, index_NBI)
    uniform_NBI = (bits_NBI.astype(jnp.float32) + 0.5) * 2.0**-32
    return -jnp.log1p(-jnp.minimum(uniform_NBI, 1 - 2.0**-24))


def top_k_end(weight_BV: Array, k_B: Array, candidates: int = _CANDIDATES) -> _Before:
    """The k most likely tokens; all where k is V."""
    V = weight_BV.shape[1]
    few = _top_k_among_groups(weight_BV, k_B, candidates)
    is_many_B = (k_B > candidates) & (k_B < V)
    many = jax.lax.cond(is_many_B.any(), lambda: _top_k_by_counting(weight_BV, k_B), lambda: few)
    found = jax.tree.map(lambda x, y: jnp.where(is_many_B, x, y), many, few)
    return _Before(jnp.where(k_B < V, found.weight_B, -1), found.id_B)


def _top_k_among_groups(weight_BV: Array, k_B: Array, candidates: int) -> _Before:
    """The k most likely tokens, where k is at most `candidates`."""
    weight_BC, id_BC = _most_likely(weight_BV, candidates)
    last_B = jnp.minimum(k_B, weight_BC.shape[1]) - 1
    return _Before(_take(weight_BC, last_B), _take(id_BC, last_B) + 1)


def _most_likely(x_BV: Array, count: int) -> tuple[Array, Array]:
    """The largest values and their ids, the largest first, equal ones by id.

    They are in the groups of 32 whose best values are the largest: a value elsewhere has as many before it. On a CPU
    that is fifteen times as fast as one top_k.
    """
    B, V = x_BV.shape
    x_BGI = jnp.pad(x_BV, ((0, 0), (0, -V % _GROUP)), constant_values=-jnp.inf).reshape(B, -1, _GROUP)
    best_BG = x_BGI.max(-1)
    group_BG = jax.lax.top_k(best_BG, min(count, best_BG.shape[1]))[1]  # equal ones by id
    group_BG1 = jnp.sort(group_BG, axis=1)[:, :, None]  # so that equal tokens are found by id
    id_BC = (group_BG1 * _GROUP + jnp.arange(_GROUP, dtype=jnp.int32)).reshape(B, -1)
    best_BC, index_BC = jax.lax.top_k(jnp.take_along_axis(x_BGI, group_BG1, 1).reshape(B, -1), min(count, V))
    return best_BC, jnp.take_along_axis(id_BC, index_BC, 1)


def _top_k_by_counting(weight_BV: Array, k_B: Array) -> _Before:
    """The k most likely tokens, for any k: first their least weight, bit by bit, then the last id of that weight."""
    B, V = weight_BV.shape
    order_BV = jax.lax.bitcast_convert_type(weight_BV, jnp.int32)  # of floats that are not negative, the same order
    id_V = jnp.arange(V, dtype=jnp.int32)

    def least_bit(i: Array, least_B: Array) -> Array:
        trial_B = least_B | (1 << (30 - i))
        return jnp.where((order_BV >= trial_B[:, None]).sum(-1) >= k_B, trial_B, least_B)

    least_B = jax.lax.fori_loop(0, 31, least_bit, jnp.zeros(B, jnp.int32))
    is_equal_BV = order_BV == least_B[:, None]
    equal_B = k_B - (order_BV > least_B[:, None]).sum(-1)  # how many of that weight are among the k

    def last_bit(i: Array, last_B: Array) -> Array:
        # The largest id with fewer than so many before it is the last one's.
        trial_B = last_B | (1 << (V.bit_length() - 1 - i))
        return jnp.where((is_equal_BV & (id_V < trial_B[:, None])).sum(-1) < equal_B, trial_B, last_B)

    last_B = jax.lax.fori_loop(0, V.bit_length(), last_bit, jnp.zeros(B, jnp.int32))
    return _Before(jax.lax.bitcast_convert_type(least_B, jnp.float32), last_B + 1)


def token_logprobs(logits_BV: Array, token_B: Array) -> tuple[Array, Array, Array]:
    """Each row's log-probability of its token, and the A = 20 most likely tokens [B, A] with theirs."""
    logprob_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    top_logprob_BA, top_BA = _most_likely(logprob_BV, MAX_LOGPROBS)
    return _take(logprob_BV, token_B), top_BA, top_logprob_BA


def _no_logprobs(logits_BV: Array, token_B: Array) -> tuple[Array, Array, Array]:
    B, A = logits_BV.shape[0], min(MAX_LOGPROBS, logits_BV.shape[1])
    return jnp.zeros(B), jnp.zeros((B, A), jnp.int32), jnp.zeros((B, A))
