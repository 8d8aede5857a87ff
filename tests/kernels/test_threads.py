"""Native calls of several threads at once, which share the workers: each call's result is its own."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import Level, best_level, matmul, pack

pytestmark = pytest.mark.skipif(best_level() == Level.XLA, reason="no native kernels here")


def test_calls_of_several_threads_do_not_meet():
    random = np.random.default_rng(0)
    packed = pack(jnp.asarray(random.normal(size=(320, 64)), jnp.float32), "float32")
    inputs = [jnp.asarray(random.normal(size=(rows, 64)), jnp.float32) for rows in (1, 3, 16, 40)]

    @jax.jit
    def chain(x, packed):  # calls in quick succession, and pauses between the chains
        return [matmul(x * factor, packed) for factor in range(1, 9)]

    def run(index):
        x = inputs[index % len(inputs)]
        return [np.asarray(y) for y in chain(x, packed)]

    expected = [run(index) for index in range(len(inputs))]
    with ThreadPoolExecutor(8) as threads:
        for index, results in enumerate(threads.map(run, range(400))):
            for y, alone in zip(results, expected[index % len(inputs)], strict=True):
                np.testing.assert_array_equal(y, alone)
