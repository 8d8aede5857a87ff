"""Sampled frequencies against exact distributions that a plain sort computes in float64."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from llm_jax.errors import RequestError
from llm_jax.inference.engine.request import SamplingParams
from llm_jax.inference.engine.sampling import SampledTokens, first_argmax, most_likely, sample
from llm_jax.inference.engine.sampling_state import SamplingState

V = 24
DRAWS = 8192
LOGITS = np.random.default_rng(0).normal(0, 2, V).astype(np.float32)
PROMPT, GENERATED = (3, 4, 4), (5, 5, 6)

_with_tokens = jax.jit(SamplingState.with_tokens)
_sample = jax.jit(sample, static_argnames="candidates")


def run(
    logits: np.ndarray, state: SamplingState, active: np.ndarray, allowed: np.ndarray | None = None, candidates: int = V
) -> SampledTokens:
    is_masked = allowed is not None
    everything = np.ones(logits.shape, bool)
    return _sample(logits, state, active, allowed if is_masked else everything, is_masked, candidates=candidates)


def batch(states: list[SamplingState]) -> SamplingState:
    return jax.tree.map(lambda *xs: jnp.concatenate([jnp.asarray(x) for x in xs]), *states)


def exact_distribution(sampling: SamplingParams) -> np.ndarray:
    """Penalties, bias, temperature, top-k, top-p, min-p, in this order, by sorting."""
    logits = LOGITS.astype(np.float64)
    for token in {*PROMPT, *GENERATED}:
        r = sampling.repetition_penalty
        logits[token] = logits[token] / r if logits[token] > 0 else logits[token] * r
    for token in set(GENERATED):
        logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * GENERATED.count(token)
    for token, bias in (sampling.logit_bias or {}).items():
        logits[token] += bias
    logits /= sampling.temperature
    best_first = np.argsort(-logits, kind="stable")
    keep = best_first[: sampling.top_k or V]
    p = np.zeros(V)
    p[keep] = np.exp(logits[keep] - logits.max())
    p /= p.sum()
    if sampling.top_p is not None:
        n = int(np.searchsorted(np.cumsum(p[best_first]), sampling.top_p)) + 1
        p[best_first[n:]] = 0
    p[p < (sampling.min_p or 0) * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1.2},
        {"frequency_penalty": -1.0},
        {"logit_bias": {0: 3.0, 7: -100.0}},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2, "logit_bias": {2: 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("candidates", [4, V])
def test_frequencies_match_the_exact_distribution(settings: dict, candidates: int) -> None:
    """One draw from each of many seeds; the test's false alarm rate is one in ten thousand, with fixed seeds."""
    sampling = SamplingParams(**settings)
    one = SamplingState.of(sampling, PROMPT, 0, V)
    state = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), DRAWS, axis=0), one)
    counts = np.zeros(V, np.int32)
    np.add.at(counts, list(GENERATED), 1)
    values = {f.name: getattr(state, f.name) for f in fields(state)}
    values["seed_B2"] = jnp.stack([jnp.zeros(DRAWS, jnp.uint32), jnp.arange(DRAWS, dtype=jnp.uint32)], axis=1)
    values["count_BV"] = jnp.tile(counts, (DRAWS, 1))
    sampled = run(jnp.tile(LOGITS, (DRAWS, 1)), SamplingState(**values), jnp.ones(DRAWS, bool), candidates=candidates)
    observed = np.bincount(np.asarray(sampled.token_B), minlength=V)
    expected = exact_distribution(sampling) * DRAWS
    assert observed[expected == 0].sum() == 0
    common = expected >= 5
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert chisquare(observed, expected).pvalue > 1e-4


def test_one_seed_over_many_steps_is_a_fair_sequence_too() -> None:
    state, seen = SamplingState.of(SamplingParams(), (), 1234, V), []
    for _ in range(2000):
        sampled = run(LOGITS[None], state, np.ones(1, bool))
        state = _with_tokens(state, np.zeros(1, np.int32), sampled.token_B, np.ones(1, bool))
        seen.append(int(sampled.token_B[0]))
    expected = exact_distribution(SamplingParams()) * 2000
    common = expected >= 5
    observed = np.bincount(seen, minlength=V)
    pooled = [np.append(x[common], x[~common].sum()) for x in (observed, expected)]
    assert chisquare(*pooled).pvalue > 1e-4
    lag = np.array(seen)
    assert abs(np.corrcoef(lag[:-1], lag[1:])[0, 1]) < 0.08  # consecutive draws are not correlated


@pytest.mark.parametrize("k", [1, 2, 7, V])
def test_most_likely_takes_exactly_k_and_the_lower_id_of_equals(k: int) -> None:
    rng = np.random.default_rng(k)
    logits = rng.integers(-2, 3, (50, V)).astype(np.float32)  # many ties; zeros of both signs
    logits[logits == 0] *= rng.choice([-1.0, 1.0], (logits == 0).sum())
    selected = np.asarray(most_likely(jnp.asarray(logits), jnp.ones_like(logits), jnp.full(50, float(k))))
    for row, mask in zip(logits, selected, strict=True):
        assert set(np.flatnonzero(mask)) == set(np.argsort(-row, kind="stable")[:k])


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_k": 9}, {"top_p": 0.6}, {"min_p": 0.2}, {}], ids=str)
def test_the_tokens_are_the_same_however_few_are_looked_at_first(settings: dict) -> None:
    """Also among equal logits, of which top-k cuts some off. Rounding decides nothing here."""
    rng = np.random.default_rng(3)
    logits = np.concatenate([rng.normal(0, 2, (300, V)), rng.integers(-2, 3, (300, V))]).astype(np.float32)
    if "top_p" in settings:
        logits = logits[:300]
    state = batch([SamplingState.of(SamplingParams(**settings), (), i, V) for i in range(len(logits))])
    few, all_of_them = (run(logits, state, np.ones(len(logits), bool), candidates=n).token_B for n in (4, V))
    np.testing.assert_array_equal(few, all_of_them)


def test_top_p_ends_alike_beside_a_slot_that_takes_more_tokens() -> None:
    """Where rounding decides: each p is a sum of the best probabilities."""
    logits = np.random.default_rng(0).standard_normal((64, V)).astype(np.float32)
    best_first = -np.sort(-np.asarray(jax.nn.softmax(logits)), axis=1)
    ends = np.cumsum(best_first, axis=1)[:, 4].tolist()
    for attempt in range(20):
        states = [SamplingState.of(SamplingParams(top_p=p), (), 64 * attempt + i, V) for i, p in enumerate(ends)]
        long = SamplingState.of(SamplingParams(top_p=0.99), (), 0, V)
        alone = run(logits, batch(states), np.ones(64, bool), candidates=12).token_B
        flat = np.zeros((1, V), np.float32)
        beside = run(np.concatenate([logits, flat]), batch([*states, long]), np.ones(65, bool), candidates=12).token_B
        np.testing.assert_array_equal(beside[:64], alone)


def test_temperature_zero_equals_top_k_one_also_among_equals() -> None:
    logits = np.random.default_rng(1).integers(-3, 3, (64, V)).astype(np.float32)
    greedy = batch([SamplingState.of(SamplingParams(temperature=0.0), (), i, V) for i in range(64)])
    top_one = batch([SamplingState.of(SamplingParams(temperature=1.5, top_k=1), (), i, V) for i in range(64)])
    active = np.ones(64, bool)
    a, b = run(logits, greedy, active), run(logits, top_one, active)
    np.testing.assert_array_equal(a.token_B, b.token_B)
    np.testing.assert_array_equal(a.token_B, logits.argmax(-1))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 61])
def test_argmax_takes_the_first_of_equal_logits_in_any_window(width: int) -> None:
    logits = np.random.default_rng(width).integers(-3, 3, (200, width)).astype(np.float32)
    logits[0] = -np.inf
    np.testing.assert_array_equal(first_argmax(jnp.asarray(logits), window=8), logits.argmax(-1))


def test_a_slot_is_sampled_alike_whatever_shares_its_batch() -> None:
    kinds = [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3, "seed": 5}, {"frequency_penalty": 2.0}, {"min_p": 0.3}]
    states = [SamplingState.of(SamplingParams(**kind), PROMPT, i, V) for i, kind in enumerate(kinds)]
    logits = np.random.default_rng(2).normal(0, 1, (len(kinds), V)).astype(np.float32)
    together = run(logits, batch(states), np.ones(len(kinds), bool)).token_B
    alone = [int(run(logits[i : i + 1], state, np.ones(1, bool)).token_B[0]) for i, state in enumerate(states)]
    assert together.tolist() == alone


def test_the_allowed_mask_binds_greedy_and_random_slots() -> None:
    state = batch([SamplingState.of(SamplingParams(temperature=t), (), 0, V) for t in (0.0, 2.0)])
    allowed = np.zeros((2, V), bool)
    allowed[:, [3, 9]] = True
    for _ in range(20):
        sampled = run(np.tile(LOGITS, (2, 1)), state, np.ones(2, bool), allowed)
        state = _with_tokens(state, np.arange(2), sampled.token_B, np.ones(2, bool))
        assert set(sampled.token_B.tolist()) <= {3, 9}


def test_logprobs_are_the_models_own() -> None:
    sampling = SamplingParams(temperature=0.3, repetition_penalty=1.5, logprobs=3)
    sampled = run(LOGITS[None], SamplingState.of(sampling, PROMPT, 0, V), np.ones(1, bool))
    exact = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    np.testing.assert_allclose(sampled.logprob_B[0], exact[sampled.token_B[0]], atol=1e-5)
    np.testing.assert_array_equal(sampled.top_BA[0, :3], np.argsort(-LOGITS)[:3])
    np.testing.assert_allclose(sampled.top_logprob_BA[0, :3], np.sort(exact)[::-1][:3], atol=1e-5)


def test_an_inactive_slot_is_not_counted() -> None:
    state = batch([SamplingState.of(SamplingParams(), (), i, V) for i in range(2)])
    after = _with_tokens(state, np.arange(2), np.array([3, 3]), np.array([True, False]))
    assert after.generated_B.tolist() == [1, 0]
    assert after.count_BV.sum(-1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("temperature", -0.1, "0 (greedy) or above"),
        ("temperature", float("nan"), "0 (greedy) or above"),
        ("top_k", -1, "at least 1"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.1, "above 0 and at most 1"),
        ("min_p", -0.5, "0 to 1"),
        ("repetition_penalty", 0.0, "above 0"),
        ("presence_penalty", 2.5, "-2 to 2"),
        ("frequency_penalty", -3, "-2 to 2"),
        ("logprobs", 21, "0 to 20"),
        ("logit_bias", {1: 101}, "-100 to 100"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object, allowed: str) -> None:
    with pytest.raises(RequestError) as error:
        SamplingParams(**{field: value})
    assert error.value.param == field
    assert field in str(error.value)
    assert allowed in str(error.value)


@pytest.mark.parametrize("settings", [{"top_p": 1e-300}, {"temperature": 1e-300}, {"top_p": 1e-12, "temperature": 3.0}])
def test_settings_too_small_for_float32_still_sample_the_best(settings: dict) -> None:
    one = SamplingState.of(SamplingParams(**settings), (), 0, V)
    assert run(LOGITS[None], one, np.ones(1, bool)).token_B.tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("settings", [{"temperature": 1e300}, {"repetition_penalty": 1e300}])
def test_settings_too_large_for_float32_still_sample_some_token(settings: dict) -> None:
    one = SamplingState.of(SamplingParams(**settings), PROMPT, 0, V)
    assert 0 <= int(run(LOGITS[None], one, np.ones(1, bool)).token_B[0]) < V
