"""Products of plain matrices, forward and backward, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from llm_jax.kernels import Level, WeightDtype, cpu, features, has_native_linear, linear, matmul_dispatch

NATIVE = [level for level in features() if level != Level.XLA]


def random(seed: int, *shape: int) -> np.ndarray:
    """Values that bfloat16 holds exactly."""
    return np.asarray(jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 1), (37, 129, 45), (300, 70, 600), (16, 16, 33), (40, 33, 2100)])
def test_every_orientation_equals_float64(level: Level, dtype: WeightDtype, M: int, N: int, K: int) -> None:
    a, b = random(1, M, K), random(2, N, K)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    bound = (np.abs(a) @ np.abs(b).T) * K * 2.0**-23 + 1e-6  # of float32 sums: the factors are exact
    for by_columns in ((False, False), (False, True), (True, True), (True, False)):
        for stored in ("float32", "bfloat16"):
            left, right = (
                jnp.asarray(x.T if turned else x, stored) for x, turned in zip((a, b), by_columns, strict=True)
            )
            out = cpu.dense(
                left, right, by_columns=by_columns, dtype=dtype, out_dtype=jnp.dtype("float32"), level=level
            )
            assert (np.abs(np.asarray(out) - exact) <= bound).all(), (by_columns, stored)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("K", [45, 2100])
def test_a_product_is_added_in_place(level: Level, K: int) -> None:
    """Also where the contracted axis is multiplied in several blocks."""
    a, b, total = random(1, K, 37), random(2, K, 50), random(3, 37, 50)

    def added(a: Array, b: Array, total: Array) -> Array:
        float32 = jnp.dtype("float32")
        return cpu.dense(a, b, by_columns=(True, True), dtype="bfloat16", out_dtype=float32, level=level, add_to=total)

    out = jax.jit(added, donate_argnums=2)(*map(jnp.asarray, (a, b, total)))
    bound = (np.abs(a).T @ np.abs(b) + np.abs(total)) * K * 2.0**-23
    assert (np.abs(np.asarray(out) - (total + a.T.astype(np.float64) @ b)) <= bound).all()


@pytest.mark.skipif(not has_native_linear(jnp.dtype("bfloat16")), reason="no native products of plain matrices here")
def test_gradients_in_bfloat16_differ_from_float64_by_one_rounding() -> None:
    x, weight, of_y = random(1, 2, 25, 70), random(2, 90, 70), random(3, 2, 25, 90)

    def out(x: Array, weight: Array) -> Array:
        return linear(x, weight)

    y, pull_back = jax.vjp(out, jnp.asarray(x, jnp.bfloat16), jnp.asarray(weight))
    of_x, of_weight = pull_back(jnp.asarray(of_y, jnp.bfloat16))
    assert (y.dtype, of_x.dtype, of_weight.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = [x.astype(np.float64) @ weight.T, of_y.astype(np.float64) @ weight]
    for got, want in zip((y, of_x), exact, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2.0**-8, atol=1e-4)
    exact_of_weight = np.einsum("bto,bti->oi", of_y.astype(np.float64), x)
    np.testing.assert_allclose(np.asarray(of_weight), exact_of_weight, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(
    not has_native_linear(jnp.dtype("float32"), 1 << 40), reason="with AVX-512 alone; elsewhere XLA's is no slower"
)
def test_large_products_in_float32_are_native_with_float64s_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, of_y = random(1, 2, 25, 70), random(2, 90, 70), random(3, 2, 25, 90)
    _, levels = matmul_dispatch.NATIVE_LINEAR["float32"]
    monkeypatch.setitem(matmul_dispatch.NATIVE_LINEAR, "float32", (2 * 25 * 90 * 4, levels))
    assert "ffi_call" in str(jax.make_jaxpr(linear)(x, weight))
    assert "ffi_call" not in str(jax.make_jaxpr(linear)(x, weight[:-1]))
    y, pull_back = jax.vjp(linear, jnp.asarray(x), jnp.asarray(weight))
    of_x, of_weight = pull_back(jnp.asarray(of_y))
    exact = [x.astype(np.float64) @ weight.T, of_y.astype(np.float64) @ weight]
    exact.append(np.einsum("bto,bti->oi", of_y.astype(np.float64), x))
    for got, want in zip((y, of_x, of_weight), exact, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=1e-5, atol=1e-4)
