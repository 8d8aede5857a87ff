"""A step beside a frozen model takes the memory of few rows, and gives back what it does not need."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.memory import map_file, return_freed_memory
from llm_jax.training import make_train_step
from llm_jax.training.footprint import compiled_beforehand, parts_of
from llm_jax.training.step import TrainState

LARGE, SMALL = {"w": jnp.zeros((64, 64))}, {"w": jnp.zeros((64, 8))}


@pytest.mark.parametrize(
    ("rows", "tokens", "parts"),
    [(4, 256, 4), (8, 128, 4), (8, 64, 2), (4, 100, 1), (6, 100, 2), (1, 4096, 1), (3, 1, 1)],
)
def test_parts_are_equal_and_of_256_tokens_or_more(rows, tokens, parts):
    assert parts_of(rows, tokens, SMALL, LARGE) == parts


def test_a_batch_stays_whole_where_gradients_are_large():
    assert parts_of(4, 256, LARGE, LARGE) == parts_of(4, 256, LARGE, {}) == 1


def test_parts_take_the_memory_of_one():
    def loss(trainable, frozen, batch, *, dtype, dropout_key):
        x = batch["inputs"]
        for _ in range(4):
            x = jnp.tanh(x @ frozen["w"] @ trainable["a"].T @ trainable["a"])
        return jnp.square(x).sum(), batch["weights"].sum(), {}

    step = make_train_step(loss, optax.identity(), dtype=jnp.dtype("float32"), seed=0)

    def temporaries(parts):
        batch = {"inputs": np.ones((parts, 8 // parts, 256, 64), np.float32)}
        batch["weights"] = np.ones(batch["inputs"].shape[:3], np.float32)
        state = TrainState({"a": jnp.ones((8, 64))}, optax.identity().init({}), None)
        return step.lower(state, LARGE, batch, 0, 0.1).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 4


def test_a_step_that_is_compiled_beforehand_is_compiled_once():
    traced = []

    def add(x, y):
        traced.append(1)
        return x + y

    step = compiled_beforehand(jax.jit(add))
    assert [int(step(1, y)) for y in (2, 3)] == [3, 4]
    assert len(traced) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is resident")
def test_what_was_read_of_a_mapped_file_is_given_back(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2**25))
    data = np.frombuffer(map_file(tmp_path / "file"), np.uint8)

    def resident():
        return 1024 * int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    assert data.sum() == 0
    before = resident()
    return_freed_memory()
    assert resident() < before - 2**24
    assert data[-1] == 0, "it is read again"
