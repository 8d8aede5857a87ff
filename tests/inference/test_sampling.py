"""Sampled frequencies against exact distributions that a plain sort computes in float64."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from llm_jax.errors import RequestError
from llm_jax.inference.engine.request import AllowedTokens, SamplingParams
from llm_jax.inference.engine.sampling import SampledTokens, sample, top_k_end
from llm_jax.inference.engine.sampling_state import SamplingState

V = 24
LOGITS = np.random.default_rng(0).normal(0, 2, V).astype(np.float32)
PROMPT, GENERATED = (3, 4, 4), (5, 5, 6)

_with_tokens = jax.jit(SamplingState.with_tokens)
_sample = jax.jit(sample, static_argnames="candidates")
_top_k_end = jax.jit(top_k_end, static_argnames="candidates")


def run(
    logits: np.ndarray, state: SamplingState, allowed: np.ndarray | None = None, candidates: int = 64
) -> SampledTokens:
    B, width = logits.shape
    words = np.full((B, -(-width // 32)), 0xFFFFFFFF, np.uint32)
    if allowed is not None:
        words[:] = [AllowedTokens(lambda generated, row=row: row).mask([]) for row in allowed]
    slots, active = np.arange(B, dtype=np.int32), np.ones(B, bool)
    return _sample(logits, state, slots, active, words, allowed is not None, candidates=candidates)


def batch(states: list[SamplingState]) -> SamplingState:
    return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs]), *states)


def draws(logits: np.ndarray, sampling: SamplingParams, rows: int, steps: int, candidates: int = 64) -> np.ndarray:
    """Tokens of so many seeds, and of so many counts of generated tokens for each."""
    one = SamplingState.of(sampling, PROMPT if len(logits) >= V else (), 0, len(logits))
    one = replace(one, count_BV=counts(len(logits))[None])
    state = jax.device_put(batch([one] * rows))
    state = replace(state, seed_B2=np.stack([np.zeros(rows, np.uint32), np.arange(rows, dtype=np.uint32)], axis=1))
    tiled = jax.device_put(np.tile(logits, (rows, 1)))
    tokens = []
    for step in range(steps):
        state = replace(state, generated_B=np.full(rows, step, np.int32))
        tokens.append(np.asarray(run(tiled, state, candidates=candidates).token_B))
    return np.concatenate(tokens)


def counts(width: int) -> np.ndarray:
    return np.bincount(GENERATED if width >= V else (), minlength=width).astype(np.int32)


def exact_distribution(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """Penalties, bias, temperature, top-k, top-p, min-p, in this order, by sorting."""
    logits = logits.astype(np.float64)
    if len(logits) >= V:
        for token in {*PROMPT, *GENERATED}:
            r = sampling.repetition_penalty
            logits[token] = logits[token] / r if logits[token] > 0 else logits[token] * r
        for token in set(GENERATED):
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * GENERATED.count(token)
    for token, bias in (sampling.logit_bias or {}).items():
        logits[token] += bias
    logits /= sampling.temperature
    best_first = np.argsort(-logits, kind="stable")
    keep = best_first[: sampling.top_k or None]
    p = np.zeros(len(logits))
    p[keep] = np.exp(logits[keep] - logits.max())
    p /= p.sum()
    if sampling.top_p is not None:
        n = int(np.searchsorted(np.cumsum(p[best_first]), sampling.top_p)) + 1
        p[best_first[n:]] = 0
    p[p < (sampling.min_p or 0) * p.max()] = 0
    return p / p.sum()


def check_frequencies(tokens: np.ndarray, distribution: np.ndarray) -> None:
    """By token, the rare ones together; and in bins of neighbours, by id and by likelihood, where most are rare.

    The false alarm rate of each check is one in ten thousand, with fixed seeds.
    """
    observed = np.bincount(tokens, minlength=len(distribution))
    expected = distribution * len(tokens)
    assert observed[expected == 0].sum() == 0
    for order in (np.arange(len(expected)), np.argsort(-expected, kind="stable")):
        o, e = observed[order], expected[order]
        bins = np.unique(np.minimum((np.cumsum(e) - e) // 20, (e.sum() - 5) // 20).astype(int), return_inverse=True)[1]
        binned = [np.bincount(bins, weights=x) for x in (o, e)]
        common = binned[1] > 0
        if common.sum() > 1:
            assert chisquare(binned[0][common], binned[1][common]).pvalue > 1e-4


SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_p": 0.7},
    {"top_p": 0.05},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_p": 0.9, "min_p": 0.2},
    {"top_k": 9, "top_p": 0.8},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 1.2},
    {"frequency_penalty": -1.0},
    {"logit_bias": {0: 3.0, 7: -100.0}},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2, "logit_bias": {2: 1}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("candidates", [4, 64])
def test_frequencies_match_the_exact_distribution(settings: dict, candidates: int) -> None:
    sampling = SamplingParams(**settings)
    tokens = draws(LOGITS, sampling, rows=4096, steps=2, candidates=candidates)
    check_frequencies(tokens, exact_distribution(LOGITS, sampling))


@cache
def distribution(kind: str, width: int) -> np.ndarray:
    rng = np.random.default_rng(width)
    if kind == "flat":
        return rng.normal(0, 0.5, width).astype(np.float32)
    if kind == "peaked":  # as language is: a few tokens have most of the mass, and all the others some
        return rng.permutation(-1.4 * np.log(np.arange(1, width + 1))).astype(np.float32)
    return rng.integers(-2, 2, width).astype(np.float32)  # equals


@pytest.mark.parametrize("kind", ["flat", "peaked", "equals"])
@pytest.mark.parametrize("width", [1, 2, 33, 255, 257, 1025, 50257, 128256])
@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.9}, {"min_p": 0.3}, {"top_k": 40}, {"top_k": 700, "top_p": 0.8}], ids=str
)
def test_frequencies_match_in_vocabularies_of_every_size(kind: str, width: int, settings: dict) -> None:
    logits, sampling = distribution(kind, width), SamplingParams(**settings)
    rows, steps = (16, 64) if width > 10_000 else (512, 8)
    check_frequencies(draws(logits, sampling, rows, steps), exact_distribution(logits, sampling))


def test_one_seed_over_many_steps_is_a_fair_sequence_too() -> None:
    state, seen = SamplingState.of(SamplingParams(), (), 1234, V), []
    for _ in range(2000):
        sampled = run(LOGITS[None], state)
        state = _with_tokens(state, np.zeros(1, np.int32), sampled.token_B, np.ones(1, bool))
        seen.append(int(sampled.token_B[0]))
    lag = np.array(seen)
    check_frequencies(lag, exact_distribution(LOGITS, SamplingParams()))
    assert abs(np.corrcoef(lag[:-1], lag[1:])[0, 1]) < 0.08  # consecutive draws are not correlated


def test_a_token_of_no_probability_is_never_drawn() -> None:
    """-inf, and what exp makes 0; also where a group of 32 has no other."""
    for width in (33, 257, 5000):
        logits = np.full((512, width), -np.inf, np.float32)
        logits[:, ::3] = -200.0
        rng = np.random.default_rng(width)
        likely = rng.integers(0, width, (512, 2))
        np.put_along_axis(logits, likely, rng.normal(0, 1, (512, 2)).astype(np.float32), 1)
        for settings in ({}, {"top_p": 0.9999}, {"top_k": 20}, {"top_k": 200, "min_p": 1e-9}):
            states = batch([SamplingState.of(SamplingParams(**settings), (), i, width) for i in range(512)])
            tokens = np.asarray(run(logits, states).token_B)
            assert (tokens[:, None] == likely).any(-1).all()


@pytest.mark.parametrize("candidates", [1, 4, 300])
@pytest.mark.parametrize("width", [1, 24, 300])
def test_top_k_takes_exactly_k_and_the_lower_id_of_equals(candidates: int, width: int) -> None:
    rng = np.random.default_rng(width)
    weights = (rng.integers(0, 4, (60, width)) / 4).astype(np.float32)  # many ties, many of them zeros
    weights[30:] = rng.random((30, width))
    k = rng.integers(1, width + 1, 60).astype(np.int32)
    end = _top_k_end(weights, k, candidates=candidates)
    for row, n, weight, last in zip(weights, k, *map(np.asarray, (end.weight_B, end.id_B)), strict=True):
        order = np.argsort(-row, kind="stable")[:n]
        assert set(np.flatnonzero((row > weight) | ((row == weight) & (np.arange(width) < last)))) == set(order)


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_k": 9}, {"top_k": 5, "top_p": 0.6}], ids=str)
def test_the_tokens_are_the_same_by_whichever_search_top_k_ends(settings: dict) -> None:
    rng = np.random.default_rng(3)
    logits = np.concatenate([rng.normal(0, 2, (300, V)), rng.integers(-2, 3, (300, V))]).astype(np.float32)
    state = batch([SamplingState.of(SamplingParams(**settings), (), i, V) for i in range(len(logits))])
    few, all_of_them = (run(logits, state, candidates=n).token_B for n in (1, V))
    np.testing.assert_array_equal(few, all_of_them)


def test_temperature_zero_equals_top_k_one_also_among_equals() -> None:
    logits = np.random.default_rng(1).integers(-3, 3, (64, V)).astype(np.float32)
    expected = logits.argmax(-1)
    for settings in ({"temperature": 0.0}, {"temperature": 1.5, "top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        state = batch([SamplingState.of(SamplingParams(**settings), (), i, V) for i in range(64)])
        tokens = np.asarray(run(logits, state).token_B)
        if "temperature" in settings and settings["temperature"] == 1e-9:  # draws among equals
            np.testing.assert_array_equal(np.take_along_axis(logits, tokens[:, None], 1)[:, 0], logits.max(-1))
        else:
            np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize("width", [24, 1000, 50257])
def test_the_same_seed_gives_the_same_token_in_any_batch_and_slot(width: int) -> None:
    kinds = [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3, "seed": 5}, {"frequency_penalty": 2.0}, {"min_p": 0.3}]
    kinds += [{}, {"top_p": 0.99}, {"top_k": 100, "top_p": 0.9}, {"temperature": 2.0, "top_p": 0.3}]
    rows = 4 * len(kinds)
    states = [SamplingState.of(SamplingParams(**kinds[i % len(kinds)]), PROMPT, i, width) for i in range(rows)]
    logits = np.random.default_rng(2).normal(0, 1, (rows, width)).astype(np.float32)
    together = np.asarray(run(logits, batch(states)).token_B)
    alone = [int(run(logits[i : i + 1], state).token_B[0]) for i, state in enumerate(states)]
    assert together.tolist() == alone
    order = np.random.default_rng(3).permutation(rows)[: rows - 5]
    np.testing.assert_array_equal(run(logits[order], batch([states[i] for i in order])).token_B, together[order])


def test_a_row_is_sampled_with_the_settings_of_its_slot() -> None:
    states = [SamplingState.of(SamplingParams(logit_bias={i: 100.0}), (), i, V) for i in range(6)]
    slots = np.array([4, 1, 2**31 - 1, 3], np.int32)
    active = np.array([True, True, False, True])
    everything = np.full((4, 1), 0xFFFFFFFF, np.uint32)
    tokens = np.asarray(_sample(np.zeros((4, V), np.float32), batch(states), slots, active, everything, False).token_B)
    assert tokens[active].tolist() == [4, 1, 3]


def test_the_allowed_mask_binds_greedy_and_random_rows() -> None:
    for width in (24, 32, 70):
        logits = np.random.default_rng(width).normal(0, 1, (2, width)).astype(np.float32)
        state = batch([SamplingState.of(SamplingParams(temperature=t), (), 0, width) for t in (0.0, 2.0)])
        allowed = np.zeros((2, width), bool)
        allowed[:, [3, 9, width - 1]] = True
        for _ in range(20):
            sampled = run(logits, state, allowed)
            state = _with_tokens(state, np.arange(2), sampled.token_B, np.ones(2, bool))
            assert set(sampled.token_B.tolist()) <= {3, 9, width - 1}


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"top_k": 5, "min_p": 0.1}], ids=str)
def test_logits_that_are_no_numbers_are_told_and_harm_no_other_row(bad: float, settings: dict) -> None:
    width, rows = 700, 8
    states = batch([SamplingState.of(SamplingParams(**settings), (), i, width) for i in range(rows)])
    logits = np.random.default_rng(0).normal(0, 1, (rows, width)).astype(np.float32)
    logits[:, 5] = -np.inf  # a token that cannot be sampled is no fault
    clean = run(logits, states)
    assert np.asarray(clean.is_finite_B).all()
    broken = logits.copy()
    for row, token in ((1, 0), (3, 255), (4, width - 1)):
        broken[row, token] = bad
    broken[6] = -np.inf
    sampled = run(broken, states)
    is_clean = np.isin(np.arange(rows), [1, 3, 4, 6], invert=True)
    np.testing.assert_array_equal(sampled.is_finite_B, is_clean)
    np.testing.assert_array_equal(np.asarray(sampled.token_B)[is_clean], np.asarray(clean.token_B)[is_clean])
    assert (np.asarray(sampled.token_B) < width).all()
    allowed = np.isfinite(broken)
    allowed[6, 3] = True
    assert np.asarray(run(broken, states, allowed).is_finite_B).tolist() == [True] * 6 + [False, True]


def test_logprobs_are_the_models_own() -> None:
    sampling = SamplingParams(temperature=0.3, repetition_penalty=1.5, logprobs=3)
    sampled = run(LOGITS[None], SamplingState.of(sampling, PROMPT, 0, V))
    exact = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    logprob_B, top_BA, top_logprob_BA = sampled.logprobs
    np.testing.assert_allclose(logprob_B[0], exact[sampled.token_B[0]], atol=1e-5)
    np.testing.assert_array_equal(top_BA[0, :3], np.argsort(-LOGITS)[:3])
    np.testing.assert_allclose(top_logprob_BA[0, :3], np.sort(exact)[::-1][:3], atol=1e-5)


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
    assert run(LOGITS[None], one).token_B.tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("settings", [{"temperature": 1e300}, {"repetition_penalty": 1e300}])
def test_settings_too_large_for_float32_still_sample_some_token(settings: dict) -> None:
    one = SamplingState.of(SamplingParams(**settings), PROMPT, 0, V)
    assert 0 <= int(run(LOGITS[None], one).token_B[0]) < V
