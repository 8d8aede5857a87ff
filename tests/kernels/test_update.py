"""The norm of all gradients and AdamW's update, natively, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import kernels

SIZES = {"a.weight": (300, 401), "b.weight": (70_000,), "bias": (1,), "norm.weight": (17,)}  # parts of tasks, and tails
BETAS, EPSILON, RATE, CLIP = (0.9, 0.95), 1e-8, 0.01, 0.25
pytestmark = pytest.mark.skipif(not kernels.has_native_update(), reason="no native updates here")


def random(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SIZES.items()}


def test_the_norm_is_that_of_all_elements() -> None:
    arrays = random(0)
    exact = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays.values()))
    assert jax.jit(kernels.norm)(arrays) == pytest.approx(exact, rel=1e-6)
    arrays["bias"] = np.full((1,), np.inf, np.float32)
    assert not np.isfinite(kernels.norm(arrays))


@pytest.mark.parametrize("mean_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("applied", [True, False])
def test_adamw_follows_float64(mean_dtype: str, applied: bool) -> None:
    parameters, gradients = random(1), random(2)
    means = {name: np.asarray(jnp.asarray(0.1 * x, mean_dtype)) for name, x in random(3).items()}
    squares = {name: np.square(x) for name, x in random(4).items()}
    decay = {name: 0.1 * name.startswith(("a", "b.")) for name in SIZES}
    after = jax.jit(
        lambda *arrays: kernels.adamw(
            *arrays,
            rate=jnp.float32(RATE),
            factor=jnp.float32(CLIP),
            step=jnp.int32(3),
            applied=jnp.asarray(applied),
            betas=BETAS,
            epsilon=EPSILON,
            decay=decay,
        ),
        donate_argnums=(0, 1, 2),
    )(*jax.tree.map(jnp.array, (parameters, means, squares, gradients)))
    for name in SIZES:
        got = [np.asarray(part[name], np.float64) for part in after]
        p, m, v, g = (x[name].astype(np.float64) for x in (parameters, means, squares, gradients))
        if applied:
            g = g * CLIP
            m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
            change = m / (1 - BETAS[0] ** 3) / (np.sqrt(v / (1 - BETAS[1] ** 3)) + EPSILON) + decay[name] * p
            p = p - RATE * change
        rounding = 2.0**-8 if mean_dtype == "bfloat16" else 1e-6
        for value, want, tolerance in zip(got, (p, m, v), (1e-6, rounding, 1e-6), strict=True):
            np.testing.assert_allclose(value, want, rtol=tolerance if applied else 0, atol=1e-6 * applied)
