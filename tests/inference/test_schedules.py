"""Whatever runs beside a request, and whenever it comes: the same tokens. And no block is ever lost.

By native kernels, by XLA alone, and, in a process of its own, on four devices. `make test-schedules` tries 1,000
schedules on each.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.config import ModelConfig
from llm_jax.inference import AllowedTokens, Engine, Request, SamplingParams, TokenEvent
from llm_jax.model import Model, init_params, tensor_parallel_mesh

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    max_seq_len=256,
    positions="rotary",
    norm="rms_norm",
    use_glu=True,
    dropout=0.0,
)
SLOTS, KEEP, MEMORY = 64, 6, 14  # blocks that stay cached, and of the pool: three of the longer prompts fill it
BLOCK_BYTES = 2 * 2 * 64 * 16 * 4  # keys and values of two layers
BACKENDS = ["native", "xla"] if len(jax.devices()) < 4 else ["four devices"]
SCHEDULES = int(os.environ.get("SCHEDULES", 150))
WORDS = (5, 9, 2, 33, 7)  # a text that repeats them is one to draft from

SETTINGS: tuple[dict, ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.2, "top_k": 7, "frequency_penalty": 0.5},
    {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.3, "stop_ids": tuple(range(0, 61, 9))},
    {"temperature": 1.0, "logit_bias": {3: 4.0}, "presence_penalty": -1.0, "logprobs": 0},
    {"temperature": 0.5, "logit_bias": {5: 100.0, 9: 98.5}, "max_new_tokens": 25},  # says 5 again and again, then 9
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "seed": 5},
    {"temperature": 1.0, "prompt_logprobs": 2},
    {"temperature": 1.0, "max_new_tokens": 12, "min_new_tokens": 7, "stop_ids": tuple(range(0, 61, 3))},
)


def only_even_after_odd(generated: Sequence[int]) -> np.ndarray | None:
    """A grammar, of a kind."""
    return np.arange(61) % 2 == 0 if generated and generated[-1] % 2 else None


def make_request(index: int) -> Request:
    """One of many different requests: some begin alike, some repeat themselves, every seventh has a grammar."""
    rng = np.random.default_rng(index)
    shared = np.random.default_rng(index % 3).integers(0, 61, 130).tolist()
    ending = rng.integers(0, 61, rng.integers(1, 20)).tolist()
    prompts = ending, shared[:70] + ending, list(WORDS) * 6 + ending[:2], shared + ending
    length = 150 if index % 8 == 0 else int(rng.integers(1, 9))  # a few outgrow the block that is left for them
    sampling = {"max_new_tokens": length, "seed": index, **SETTINGS[index % len(SETTINGS)]}
    return Request(
        prompt_ids=tuple(prompts[index % 4]),
        sampling=SamplingParams(**sampling),
        constraint=AllowedTokens(only_even_after_odd) if index % 7 == 0 else None,
        salt=str(index % 2),
        tenant=str(index % 5),
        priority=index % 3 - 1,
    )


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(CONFIG, {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(CONFIG, seed=7).items()})


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def make_engine(model: Model, backend: str, **options: object) -> Engine:
    mesh = {"native": None, "xla": tensor_parallel_mesh(1), "four devices": tensor_parallel_mesh(len(jax.devices()))}
    return Engine(model, mesh=mesh[backend], **options)


@pytest.fixture(scope="module")
def engine(tiny: Model, backend: str) -> Engine:
    """One for all schedules: what one of them leaves behind must not harm the next."""
    engine = make_engine(tiny, backend, max_batch=SLOTS, prefix_tokens=KEEP * 64, kv_memory=MEMORY * BLOCK_BYTES)
    engine.warmup()
    return engine


@pytest.fixture(scope="module")
def alone(tiny: Model, backend: str) -> Callable[[int], list[TokenEvent]]:
    """What a request yields with nothing beside it, nothing cached and no speculation."""
    plain = make_engine(tiny, "native" if backend == "native" else "xla", max_batch=1, speculate=False)

    @cache
    def run(index: int) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        plain.submit(make_request(index), events.append)
        while plain.step():
            pass
        return events

    return run


def run_schedule(engine: Engine, plans: Sequence[tuple[int, int, int]]) -> list[list[TokenEvent]]:
    """Submits request number `index` before step `arrival`, and cancels it `lifetime` steps later."""
    heard: list[list[TokenEvent]] = [[] for _ in plans]
    now, last = 0, max(arrival for _, arrival, _ in plans)
    request_ids: dict[int, int] = {}
    is_busy = True
    while is_busy or now <= last:
        for i, (index, arrival, lifetime) in enumerate(plans):
            if now == arrival:
                request_ids[i] = engine.submit(make_request(index), heard[i].append)
            if now == arrival + lifetime:
                engine.cancel(request_ids[i])
        is_busy = engine.step()
        now += 1
    return heard


def check(heard: Sequence[list[TokenEvent]], plans: Sequence[tuple[int, int, int]], alone: Callable) -> None:
    for events, (index, *_) in zip(heard, plans, strict=True):
        expected = alone(index)
        was_cancelled = not events or events[-1].finish is None
        assert was_cancelled or len(events) == len(expected)
        for event, wanted in zip(events, expected, strict=False):
            assert (event.token, event.finish) == (wanted.token, wanted.finish)
            assert event.logprob == pytest.approx(wanted.logprob, abs=1e-4)
            assert [i for i, _ in event.top_logprobs] == [i for i, _ in wanted.top_logprobs]
            assert [token.token for token in event.prompt] == [token.token for token in wanted.prompt]
            exact = [token.logprob for token in wanted.prompt]
            assert [token.logprob for token in event.prompt] == pytest.approx(exact, abs=1e-4)


def check_nothing_is_lost(engine: Engine) -> None:
    stats = engine.stats
    assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)
    assert stats.cached_blocks <= KEEP
    assert stats.blocks == MEMORY


def test_sixteen_requests_at_random_times_yield_what_each_yields_alone(engine: Engine, alone: Callable) -> None:
    rng = np.random.default_rng(0)
    plans = [(i, int(rng.integers(0, 30)), 5 if i % 5 == 4 else 999) for i in range(16)]
    heard = run_schedule(engine, plans)
    check(heard, plans, alone)
    finished = [events for events, (_, _, lifetime) in zip(heard, plans, strict=True) if lifetime == 999]
    assert all(events[-1].finish for events in finished)
    check_nothing_is_lost(engine)


@settings(max_examples=SCHEDULES, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 55), st.integers(0, 20), st.integers(0, 30)), min_size=1, max_size=16))
def test_no_schedule_changes_a_token_or_loses_a_block(
    engine: Engine, alone: Callable, plans: list[tuple[int, int, int]]
) -> None:
    check(run_schedule(engine, plans), plans, alone)
    check_nothing_is_lost(engine)


def test_requests_one_by_one_share_prefixes_and_accept_drafts_and_stay_the_same(
    engine: Engine, alone: Callable
) -> None:
    """So schedules of them go through the prefix cache and speculation, or they would prove little."""
    for index in range(56):
        plans = [(index, 0, 999)]
        check(run_schedule(engine, plans), plans, alone)
    stats = engine.stats
    assert 0 < stats.prefix_hits < stats.prefix_queries
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("memory", [MEMORY, 250])
def test_many_at_once_in_little_memory_and_in_much_yield_what_each_yields_alone(
    tiny: Model, backend: str, engine: Engine, alone: Callable, memory: int
) -> None:
    if memory != MEMORY:
        engine = make_engine(tiny, backend, max_batch=SLOTS, prefix_tokens=KEEP * 64, kv_memory=memory * BLOCK_BYTES)
    before = engine.stats.preemptions
    numbers = range(0, 400, 8) if memory == MEMORY else range(100)  # every eighth is long: seven are more than fit
    plans = [(number, 0, 999) for number in numbers]
    heard: list[list[TokenEvent]] = [[] for _ in plans]
    for events, (index, *_) in zip(heard, plans, strict=True):
        engine.submit(make_request(index), events.append)
    most = 0
    while engine.step():
        most = max(most, engine.stats.running)
    check(heard, plans, alone)
    stats = engine.stats
    assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)
    assert (most == SLOTS) == (memory > MEMORY)
    assert (stats.preemptions > before) == (memory == MEMORY)


@pytest.mark.skipif(len(jax.devices()) > 1, reason="this process is the one that the test starts")
def test_the_same_holds_on_four_devices() -> None:
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=os.environ | devices, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
    assert "5 passed, 1 skipped" in result.stdout
