"""The load: what its clients ask for, and how its rate is counted."""

from contextlib import closing

import numpy as np
import pytest

from benchmarks.load import Figures, Load, Measured, on_engine
from llm_jax.config import ModelConfig
from llm_jax.inference import Engine
from llm_jax.model import Model, init_params


def test_answers_differ_in_length_and_are_drawn_alike_each_time():
    load = Load(clients=16, requests=20, new_tokens=64, vocab_size=1000)
    orders = load.orders()
    lengths = [order.new_tokens for client in orders for order in client]
    assert [len(client) for client in orders] == [20] * 16
    assert min(lengths) >= 32
    assert max(lengths) <= 96
    assert len(set(lengths)) > 40
    assert np.mean(lengths) == pytest.approx(64, abs=4)
    assert {len(order.prompt) for client in orders for order in client} == {64}
    assert load.orders() == orders


def test_the_rate_is_that_of_the_time_in_which_all_clients_are_busy():
    """Ten tokens a second of each until one is done; what the other one does alone is not counted."""
    first = Measured(0.0, [0.1 * i for i in range(1, 11)], tokens=10, is_last=True)
    second = Measured(0.0, [0.1 * i for i in range(1, 31)], tokens=30, is_last=True)
    assert Figures.of([first, second]).rate == pytest.approx(20)
    alone = Measured(1.0, [1.1, 9.0], tokens=2, is_last=True)
    assert Figures.of([Measured(0.0, [0.5, 1.0], tokens=2), alone, first]).rate == pytest.approx(12)


def test_on_the_engine_each_client_gets_what_it_ordered():
    config = ModelConfig(vocab_size=50, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=64)
    load = Load(clients=3, requests=2, new_tokens=6, vocab_size=50, prompt=5)
    with closing(Engine(Model(config, init_params(config)), max_batch=2)) as engine:
        engine.start()
        measured = on_engine(engine, load)
    ordered = sorted(order.new_tokens for client in load.orders() for order in client)
    assert sorted(request.tokens for request in measured) == ordered
    assert [len(request.arrived) for request in measured] == [request.tokens for request in measured]
    assert sum(request.is_last for request in measured) == 3
