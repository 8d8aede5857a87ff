"""The largest number of each row, in plain JAX."""

import jax
import jax.numpy as jnp
from jax import Array

_WINDOW = 256  # about the square root of a vocabulary, so that both searches are short


def first_argmax(x_BV: Array, *, window: int = _WINDOW) -> tuple[Array, Array]:
    """See `llm_jax.kernels.first_argmax`: the index is found in the first window that contains the largest number.

    XLA's max passes over NaN, and a sum does not. Its CPU backend reads x twice for this, and writes nothing of its
    size. Its argmax is ten times slower, a max and a masked min over the whole of x four times.
    """
    V = x_BV.shape[1]
    window = min(window, V)
    padding = ((0, 0), (0, -V % window))
    best_BW = jax.lax.reduce_window(x_BV, -jnp.inf, jax.lax.max, (1, window), (1, window), padding)
    best_B1 = best_BW.max(-1, keepdims=True)
    start_B1 = jnp.minimum(_first_true(best_BW == best_B1)[:, None] * window, V - window)
    in_window_BV = jnp.take_along_axis(x_BV, start_B1 + jnp.arange(window, dtype=jnp.int32), 1)
    index_B = start_B1[:, 0] + _first_true(in_window_BV == best_B1)
    sum_B = (x_BV * 2.0**-24).sum(-1)  # in which no finite values overflow
    return index_B, jnp.where(jnp.isnan(sum_B), jnp.inf, best_B1[:, 0])


def _first_true(is_true_BW: Array) -> Array:
    """The least index of a True along the last axis; the last index where there is none."""
    W = is_true_BW.shape[1]
    return jnp.where(is_true_BW, jnp.arange(W, dtype=jnp.int32), W - 1).min(-1)
