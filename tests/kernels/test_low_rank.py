"""Low-rank factors beside a matrix, of one adapter and of several, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from llm_jax import kernels
from llm_jax.kernels import Level, Norm

SLOTS, RANK = 3, 5
SLOT_M = np.array([0, 2, -1, 0, 1, 0, 0, 2, 0, -1, 0], np.int32)  # six rows of a slot: more than share a pass


def random(*shape: int, dtype: str = "float32") -> Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


def exact(array: Array) -> np.ndarray:
    return np.asarray(array.astype(jnp.float32), np.float64)


@pytest.mark.parametrize("level", kernels.features())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("I", "O"), [(64, 96), (37, 23), (7, 3)])
@pytest.mark.parametrize("norm", [None, "rms", "layer"])
def test_each_row_has_the_factors_of_its_slot(level: Level, dtype: str, I: int, O: int, norm: str | None) -> None:
    M = len(SLOT_M)
    x, a, b = random(M, I, dtype=dtype), random(SLOTS, RANK, I, dtype=dtype), random(SLOTS, RANK, O, dtype=dtype)
    residual = random(M, O, dtype=dtype) if norm else None
    centred = norm == "layer"
    of_norm = None if norm is None else Norm(random(I), random(1, I)[0] if centred else None, 1e-5, centred=centred)

    @jax.jit
    def computed(x: Array, slot: Array, residual: Array | None) -> Array:
        return kernels.low_rank(x, slot, a, b, level=level, norm=of_norm, residual=residual)

    y = computed(x, SLOT_M, residual)
    assert y.dtype == x.dtype
    inputs = exact(x)
    if of_norm is not None:
        inputs = inputs - inputs.mean(-1, keepdims=True) * centred
        inputs = inputs / np.sqrt((inputs**2).mean(-1, keepdims=True) + 1e-5) * exact(of_norm.weight)
        inputs = inputs + (exact(of_norm.bias) if of_norm.bias is not None else 0)
    expected = np.zeros((M, O)) if residual is None else exact(residual)
    for m, slot in enumerate(SLOT_M):
        if slot >= 0:
            expected[m] += exact(b[slot]).T @ (exact(a[slot]) @ inputs[m])
    tolerance = 1e-5 if dtype == "float32" else 0.02 if level == Level.XLA else 0.005
    np.testing.assert_allclose(exact(y), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    if level != Level.XLA:
        alone = [
            computed(x[m : m + 1], SLOT_M[m : m + 1], None if residual is None else residual[m : m + 1])
            for m in range(M)
        ]
        np.testing.assert_array_equal(exact(y), np.concatenate([exact(row) for row in alone]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_one_adapters_factors(dtype: str) -> None:
    rows, I, O = (2, 3), 24, 40
    y, x, of_sum = (
        random(*rows, O, dtype=dtype),
        random(*rows, I, dtype=dtype),
        random(6, O, dtype=dtype).reshape(*rows, O),
    )
    a, b = random(RANK, I), random(O, RANK)
    total, pull_back = jax.vjp(kernels.add_low_rank, y, x, a, b)
    of_y, of_x, of_a, of_b = pull_back(of_sum)
    assert (of_x.dtype, of_a.dtype, of_b.dtype) == (x.dtype, a.dtype, b.dtype)
    hidden, of_hidden = exact(x) @ exact(a).T, exact(of_sum) @ exact(b)
    flat = (-1, I), (-1, O), (-1, RANK)
    x_M, of_sum_M, of_hidden_M = exact(x).reshape(flat[0]), exact(of_sum).reshape(flat[1]), of_hidden.reshape(flat[2])
    expected = [
        (total, exact(y) + hidden @ exact(b).T),
        (of_y, exact(of_sum)),
        (of_x, of_hidden @ exact(a)),
        (of_a, of_hidden_M.T @ x_M),
        (of_b, of_sum_M.T @ hidden.reshape(flat[2])),
    ]
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for actual, value in expected:
        np.testing.assert_allclose(exact(actual), value, rtol=tolerance, atol=tolerance * np.abs(value).max())
