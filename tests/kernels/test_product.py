"""Products with packed weights against float64 and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import (
    ACTIVATIONS,
    WEIGHT_DTYPES,
    Level,
    Norm,
    PackedMatrix,
    WeightDtype,
    features,
    matmul,
    pack,
    pack_frozen,
    pack_gated,
    rows,
)

NATIVE = [level for level in features() if level != Level.XLA]
SHAPES = [(50, 37), (1, 1), (129, 2049)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 33, 64, 65]  # around the sizes of blocks, on every level

product = jax.jit(matmul, static_argnames=("activation", "out_dtype"))


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error_bound(dtype: WeightDtype, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Largest error of each output that the dtype's rounding allows, [M, N]."""
    size = np.abs(x) @ np.abs(weight).T
    if dtype == "float32":
        return size * x.shape[1] * 2.0**-24 + 1e-6
    if dtype == "bfloat16":  # both factors are rounded to 8 bits
        return size * (2 * 2.0**-9 + 2.0**-18 + x.shape[1] * 2.0**-23) + 1e-6
    half_x, half_w = np.abs(x).max(-1) / 254, np.abs(weight).max(-1) / 254
    return (
        half_x[:, None] * np.abs(weight).sum(-1)
        + half_w * np.abs(x).sum(-1)[:, None]
        + x.shape[1] * half_x[:, None] * half_w
    ) * 1.001 + 1e-5


@pytest.mark.parametrize("level", features())
@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("N", "K"), SHAPES)
def test_error_is_within_what_rounding_allows(dtype: WeightDtype, level: Level, N: int, K: int) -> None:
    weight, bias = random(1, N, K), random(2, N)
    packed = pack(jnp.asarray(weight), dtype, level=level)
    for M in (1, 16, 100):
        x = random(3, M, K)
        exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
        error = np.abs(np.asarray(product(x, packed, bias)) - exact)
        assert (error <= error_bound(dtype, x, weight)).all(), (M, error.max())


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("N", "K"), [(70, 600)])  # more than one strip of every dtype
def test_a_row_does_not_depend_on_its_batch(dtype: WeightDtype, level: Level, N: int, K: int) -> None:
    packed = pack(jnp.asarray(random(1, N, K)), dtype, level=level)
    x = random(3, 600, K)  # which several tasks divide between them
    whole = np.asarray(product(x, packed))
    for M in [*ROWS, 300]:
        np.testing.assert_array_equal(np.asarray(product(x[600 - M :], packed)), whole[600 - M :])


@pytest.mark.parametrize("level", NATIVE)
def test_int8_sums_are_the_same_on_every_level(level: Level) -> None:
    weight, x = jnp.asarray(random(1, 70, 130)), random(2, 9, 130)
    expected = np.asarray(product(x, pack(weight, "int8", level=Level.XLA)))
    actual = np.asarray(product(x, pack(weight, "int8", level=level)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_on_a_gpu_int8_rounds_the_weights_alone() -> None:
    weight = np.sign(random(1, 70, 130))  # int8 holds it exactly, bfloat16 x
    x = np.round(random(2, 9, 130) * 4)
    x[:, 0] = 4096  # beside it 255 levels leave nothing of the others
    packed = pack(jnp.asarray(weight), "int8", level=Level.XLA)
    elsewhere = [jax.export.DisabledSafetyCheck.platform()]  # the GPU's program, run here
    program = jax.export.export(product, platforms=["cuda"], disabled_checks=elsewhere)(x, packed)
    np.testing.assert_allclose(program.call(x, packed), x @ weight.T, rtol=1e-5)
    assert not np.allclose(product(x, packed), x @ weight.T, rtol=1e-5)


@pytest.mark.parametrize("level", NATIVE)
def test_int8_extremes_do_not_overflow(level: Level) -> None:
    weight = jnp.where(jnp.arange(64) % 2 == 0, 1.0, -1.0)[:, None] * jnp.ones((64, 2048))
    y = np.asarray(product(-jnp.ones((3, 2048)), pack(weight, "int8", level=level)))
    np.testing.assert_allclose(y, -2048.0 * np.asarray(weight)[:, 0] * np.ones((3, 1)), rtol=1e-5)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("x_dtype", "centred"), [("float32", True), ("bfloat16", False)])
def test_norm_gate_bias_and_residual_equal_xla(dtype: WeightDtype, level: Level, x_dtype: str, centred: bool) -> None:
    N, K = 40, 72
    first, gate, bias = jnp.asarray(random(1, N, K)), jnp.asarray(random(2, N, K)), jnp.asarray(random(3, 2, N))
    norm = Norm(jnp.asarray(random(4, K)), jnp.asarray(random(5, K)) if centred else None, 1e-5, centred)

    def run(level: Level, M: int) -> np.ndarray:
        packed = pack_gated(first, gate, dtype, level=level)
        x, residual = jnp.asarray(random(6, M, K), x_dtype), jnp.asarray(random(7, M, N), x_dtype)
        y = product(x, packed, bias, norm=norm, activation="silu", residual=residual)
        assert y.dtype == x.dtype
        return np.asarray(y, np.float32)

    for M in (12, 40, 200):
        expected = run(Level.XLA, M)
        tolerance = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 2e-2}[dtype] + (8e-3 if x_dtype == "bfloat16" else 0)
        np.testing.assert_allclose(run(level, M), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_activations_equal_xla(level: Level, activation: str) -> None:
    x, weight = jnp.linspace(-30, 30, 512)[:, None], jnp.ones((1, 1))
    actual, expected = (
        np.asarray(product(x, pack(weight, "float32", level=each), activation=activation))
        for each in (level, Level.XLA)
    )
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("level", features())
def test_leading_axes_and_zero_rows(level: Level) -> None:
    packed = pack(jnp.asarray(random(1, 20, 24)), "int8", level=level)
    x = jnp.asarray(random(2, 2, 3, 24)).at[1].set(0.0)
    y = np.asarray(product(x, packed))
    assert y.shape == (2, 3, 20)
    assert (y[1] == 0).all()
    np.testing.assert_allclose(y[0], product(x[0], packed), rtol=1e-6)


@pytest.mark.skipif(not NATIVE, reason="without native kernels nothing is packed")
def test_rows_of_a_frozen_matrix_are_those_that_were_packed() -> None:
    weight, ids = random(1, 37, 19), np.array([[0, 36, 15], [16, 16, 3]])
    expected = jnp.asarray(weight).astype(jnp.bfloat16).astype(jnp.float32)[ids]
    np.testing.assert_array_equal(jax.jit(rows)(pack_frozen(jnp.asarray(weight), "bfloat16"), ids), expected)


def test_a_packed_matrix_passes_through_jit_as_a_tree() -> None:
    packed = pack(jnp.ones((4, 4)), "int8")
    again = jax.jit(lambda p: p)(packed)
    assert isinstance(again, PackedMatrix)
    assert (again.dtype, again.level, again.shape) == (packed.dtype, packed.level, packed.shape)
