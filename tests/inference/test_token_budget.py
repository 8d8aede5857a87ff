"""How many prompt tokens a step computes: most per second, within the limit on inter-token latency."""

import math

import pytest

from llm_jax.inference.engine.step_plan import MIN_PREFILL, Buckets
from llm_jax.inference.engine.token_budget import LATENCY_LIMIT, QUEUE, PassKind, TokenBudget

BUCKETS = Buckets(12, 700)


@pytest.mark.parametrize("max_batch", [1, 2, 8, 255, 256, 1000])
def test_a_prompt_always_advances(max_batch: int) -> None:
    assert max(TokenBudget(Buckets(max_batch, 700, is_ragged=True)).sizes(max_batch)) >= MIN_PREFILL


def test_the_budget_has_the_best_rate_within_the_latency_limit() -> None:
    budget = TokenBudget(BUCKETS)
    for size, seconds in {1: 10.0, 8: 11.0, 64: 10 * LATENCY_LIMIT - 1, 256: 10 * LATENCY_LIMIT + 1}.items():
        budget.record(of(size), seconds)
    steps = {n: [of(n)] for n in (8, 64, 256)}
    plain = [of(1)]
    assert budget.choose(steps, plain, prompt_tokens=1000) == 64  # 256 would be faster for the prompt
    assert budget.choose(steps, plain, prompt_tokens=5) == 8  # a larger one would only be padded
    assert budget.choose(steps, [], prompt_tokens=1000) == 256
    assert budget.choose({256: [of(256)]}, plain, prompt_tokens=1000) == 256  # prefill must go on


def test_the_latency_limit_grows_with_a_long_queue() -> None:
    budget = TokenBudget(BUCKETS)
    for size, seconds in {1: 10.0, 64: 10 * LATENCY_LIMIT, 256: 30 * LATENCY_LIMIT}.items():
        budget.record(of(size), seconds)

    def chosen(waiting: int) -> int:
        return budget.choose({n: [of(n)] for n in (64, 256)}, [of(1)], prompt_tokens=1000, waiting=waiting)

    assert [chosen(waiting) for waiting in (1, QUEUE, 3 * QUEUE - 1, 3 * QUEUE)] == [64, 64, 64, 256]


def test_a_step_is_no_longer_than_it_should_be_where_a_size_allows_that() -> None:
    budget = TokenBudget(BUCKETS)
    for size, seconds in {1: 10.0, 8: 11.0, 64: 15.0, 256: 40.0}.items():
        budget.record(of(size), seconds)
    steps = {n: [of(n)] for n in (8, 64, 256)}
    for decode_only in ([], [of(1)]):
        chosen = [budget.choose(steps, decode_only, 1000, waiting=100, longest=s) for s in (math.inf, 39, 14, 5)]
        assert chosen == [256, 64, 8, 8]  # prefill must go on


def test_passes_with_many_sampled_tokens_say_nothing_about_a_prompt_alone() -> None:
    budget = TokenBudget(BUCKETS)
    for _ in range(9):
        budget.record(of(64, sampled=64), 130.0)
        budget.record(of(64), 37.0)
        budget.record(of(16), 20.0)
    assert budget.choose({n: [of(n)] for n in (16, 64)}, [], prompt_tokens=64, longest=100) == 64
    assert budget.choose({n: [of(n, sampled=64)] for n in (16, 64)}, [], prompt_tokens=64, longest=100) == 16


def test_where_no_time_is_known_one_program_holds_the_prompt() -> None:
    steps = {n: [of(n)] for n in (8, 64, 256)}
    assert [TokenBudget(BUCKETS).choose(steps, [], n) for n in (3, 9, 65, 999)] == [8, 64, 256, 256]


def test_sizes_that_were_never_tried_are_tried_and_the_best_is_found() -> None:
    """A step of n tokens takes 10 + n / 20: the limit is 17, so 64 is the best beside a stream."""
    budget = TokenBudget(BUCKETS)
    steps = {n: [of(n)] for n in (8, 16, 64, 256)}
    budget.record(of(1), 10.05)
    chosen = []
    for _ in range(6):
        chosen.append(budget.choose(steps, [of(1)], prompt_tokens=1000))
        budget.record(of(chosen[-1]), 10 + chosen[-1] / 20)
    assert chosen[-3:] == [64, 64, 64]


def test_one_slow_pass_counts_little_and_many_count() -> None:
    budget = TokenBudget(BUCKETS)
    steps = {8: [of(8)], 64: [of(64)]}
    budget.record(of(8), 1.0)
    for seconds in (5.0, 500.0):
        budget.record(of(64), seconds)
    assert budget.choose(steps, [], prompt_tokens=64) == 64
    for _ in range(10):
        budget.record(of(64), 9.0)
    assert budget.choose(steps, [], prompt_tokens=64) == 8


def test_behind_a_long_context_a_step_takes_fewer_tokens() -> None:
    """A step of n tokens takes 10 + n / 20, and for each pair of tokens 1 / 10,000."""
    budget = TokenBudget(BUCKETS)
    steps = {n: [of(n)] for n in (8, 16, 64)}
    for context in range(0, 2000, 10):
        size = min(steps, key=lambda n: abs(n - budget.choose(steps, [of(1)], 1000, context=context)))
        budget.record(of(1), 10.05)
        budget.record(of(size), 10 + size / 20 + size * context / 10_000, size * context)
    taken = [budget.choose(steps, [of(1)], 1000, context=context) for context in (10, 1000, 8_000, 16_000, 100_000)]
    assert taken == pytest.approx([64, 38, 8, 4, MIN_PREFILL], abs=1)


def test_where_every_step_is_slow_one_is_not_wasted_on_few_tokens() -> None:
    budget = TokenBudget(BUCKETS)
    budget.record(of(64), 100.0)
    budget.record(of(1), 10.0)
    assert budget.choose({64: [of(64)]}, [of(1)], 1000) == 64


def of(tokens: int, sampled: int = 1) -> PassKind:
    return PassKind(BUCKETS.prefill(tokens, 100)._replace(length=tokens), sampled)
