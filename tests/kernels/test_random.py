"""Random bits are those of `jax.random`."""

import jax
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from llm_jax.kernels import bernoulli, threefry


def test_bits_are_those_of_its_generator() -> None:
    """Under the same keys and counters."""
    words = np.random.default_rng(0).integers(0, 2**32, (4, 500), np.uint32)
    expected = threefry_2x32(words[:2, 0], words[2:].reshape(-1))
    first, second = jax.jit(threefry)(words[0, 0], words[1, 0], *words[2:])
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 70, 4, 33)])
@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("form", ["threefry2x32", "rbg", "raw words"])
def test_draws_are_those_of_its_bernoulli(shape: tuple[int, ...], probability: float, form: str) -> None:
    key = jax.random.PRNGKey(3) if form == "raw words" else jax.random.key(3, impl=form)
    key = jax.random.fold_in(key, 11)
    np.testing.assert_array_equal(bernoulli(key, probability, shape), jax.random.bernoulli(key, probability, shape))
