"""How many prompt tokens a step computes: most per second, within the limit on inter-token latency."""

import pytest

from llm_jax.inference.engine.step_plan import MIN_PREFILL, Buckets
from llm_jax.inference.engine.token_budget import LATENCY_LIMIT, TokenBudget

BUCKETS = Buckets(12, 700)


@pytest.mark.parametrize("max_batch", [1, 2, 8, 255, 256, 1000])
def test_a_prompt_always_advances(max_batch: int) -> None:
    assert max(TokenBudget(Buckets(max_batch, 700, is_ragged=True)).sizes(max_batch)) >= MIN_PREFILL


def test_the_budget_has_the_best_rate_within_the_latency_limit() -> None:
    budget = TokenBudget(BUCKETS)
    for size, seconds in {"plain": 10.0, 8: 11.0, 64: 10 * LATENCY_LIMIT - 1, 256: 10 * LATENCY_LIMIT + 1}.items():
        budget.record(size, seconds)
    steps = {n: [n] for n in (8, 64, 256)}
    assert budget.choose(steps, ["plain"], prompt_tokens=1000) == 64  # 256 would be faster for the prompt
    assert budget.choose(steps, ["plain"], prompt_tokens=5) == 8  # a larger one would only be padded
    assert budget.choose(steps, [], prompt_tokens=1000) == 256
    assert budget.choose({256: [256]}, ["plain"], prompt_tokens=1000) == 256  # prefill must go on


def test_where_no_time_is_known_one_program_holds_the_prompt() -> None:
    steps = {n: [n] for n in (8, 64, 256)}
    assert [TokenBudget(BUCKETS).choose(steps, [], n) for n in (3, 9, 65, 999)] == [8, 64, 256, 256]


def test_one_slow_pass_counts_little_and_many_count() -> None:
    budget = TokenBudget(BUCKETS)
    steps = {8: [8], 64: [64]}
    budget.record(8, 1.0)
    for seconds in (5.0, 500.0):
        budget.record(64, seconds)
    assert budget.choose(steps, [], prompt_tokens=64) == 64
    for _ in range(10):
        budget.record(64, 9.0)
    assert budget.choose(steps, [], prompt_tokens=64) == 8
