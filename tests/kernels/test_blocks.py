"""Blocks of tokens into a cache and out of it, by XLA and natively."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import available, read_block, write_block

put = jax.jit(write_block, static_argnames="native", donate_argnums=0)
take = jax.jit(read_block, static_argnames=("length", "native"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("native", [False, True] if available() else [False])
@pytest.mark.parametrize(("row", "start"), [(0, 0), (2, 3), (1, 9)])  # the last would end behind the row's end
def test_only_the_block_changes_and_it_comes_back(dtype: str, native: bool, row: int, start: int) -> None:
    rng = np.random.default_rng(0)
    cache, block = rng.integers(-9, 9, (3, 2, 10, 8)), rng.integers(-9, 9, (1, 2, 4, 8))
    wanted = cache.copy()
    at = min(start, 6)
    wanted[row, :, at : at + 4] = block[0]
    got = put(jnp.asarray(cache, dtype), jnp.asarray(block, dtype), np.int32(row), np.int32(start), native=native)
    np.testing.assert_array_equal(got.astype(jnp.float32), wanted)
    taken = take(got, 4, np.int32(row), np.int32(start), native=native)
    np.testing.assert_array_equal(taken.astype(jnp.float32), block)
