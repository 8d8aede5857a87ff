"""The largest number of each row, by the native kernel at each level and by XLA."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.kernels import cpu, features, xla

FORMS = [
    pytest.param(partial(xla.first_argmax, window=8), id="xla, windows of 8"),
    pytest.param(xla.first_argmax, id="xla"),
    *(pytest.param(partial(cpu.first_argmax, level=level), id=level.name) for level in features()[1:]),
]
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@pytest.mark.parametrize(
    ("rows", "width"), [(200, 1), (200, 7), (200, 61), (50, 256), (50, 700), (3, 65536), (3, 150001)]
)
def test_it_is_the_first_of_equal_numbers(form: Callable[..., tuple[jax.Array, ...]], rows: int, width: int) -> None:
    x = np.random.default_rng(width).integers(-3, 3, (rows, width)).astype(np.float32)
    x[0] = -np.inf
    x[1, : width // 2] = -9.0
    index, largest = jax.jit(form)(x)
    np.testing.assert_array_equal(index, x.argmax(-1))
    np.testing.assert_array_equal(largest, x.max(-1))


@every_form
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_what_is_no_number_makes_it_infinite_wherever_it_stands(
    form: Callable[..., tuple[jax.Array, ...]], nan: float
) -> None:
    x = np.random.default_rng(0).normal(size=(9, 70001)).astype(np.float32)
    for row, at in enumerate((0, 255, 256, 65535, 65536, 69999, 70000)):
        x[row, at] = nan
    x[7] = nan
    index, largest = jax.jit(form)(x)
    assert np.isposinf(np.asarray(largest)[:8]).all()
    assert (np.asarray(index) >= 0).all()
    assert (np.asarray(index) < 70001).all()
    assert (np.asarray(index)[8], np.asarray(largest)[8]) == (x[8].argmax(), x[8].max())
