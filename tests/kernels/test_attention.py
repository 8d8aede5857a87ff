"""Decode attention with its cache update against float64 and against XLA's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import Level, decode_attention, features

NATIVE = [level for level in features() if level != Level.XLA]


def inputs(B: int, N: int, K: int, S: int, H: int, dtype: str = "float32") -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(B * N + S)
    qkv = jnp.asarray(rng.normal(size=(B, N + 2 * K, H)), dtype)
    keys, values = (jnp.asarray(rng.normal(size=(B, K, S, H)), dtype) for _ in range(2))
    return qkv, keys, values


def reference(
    qkv: jax.Array, keys: jax.Array, values: jax.Array, lengths: np.ndarray, *, scale: float,
    softcap: float | None = None, window: int | None = None, slopes_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    x, k, v = (np.array(a, np.float64) for a in (qkv, keys, values))
    B, K, S, H = k.shape
    N = x.shape[1] - 2 * K
    out = np.zeros((B, N, H))
    for b, length in enumerate(lengths):
        if length < S:
            k[b, :, length], v[b, :, length] = x[b, N : N + K], x[b, N + K :]
        seen = np.arange(S)
        seen = seen[(seen <= length) & (seen > length - (window or S + length))]
        for n in range(N):
            kv = n // (N // K)
            score = k[b, kv, seen] @ x[b, n] * scale
            if softcap:
                score = softcap * np.tanh(score / softcap)
            if slopes_N is not None:
                score -= slopes_N[n] * (length - seen)
            weight = np.exp(score - score.max())
            out[b, n] = weight / weight.sum() @ v[b, kv, seen]
    return out, k, v


@pytest.mark.parametrize("level", features())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("N", "K"), [(4, 4), (12, 2), (5, 1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"window": 7}, {"window": 90}, {"softcap": 2.0}, {"slopes_N": True}, {"window": 70, "softcap": 5.0}],
    ids=str,
)
def test_attention_equals_float64(level: Level, dtype: str, N: int, K: int, options: dict[str, Any]) -> None:
    S, H = 150, 48
    lengths = np.array([0, 1, 63, 64, 65, 100, S - 1], np.int32)
    qkv, keys, values = inputs(len(lengths), N, K, S, H, dtype)
    if "slopes_N" in options:
        options = {"slopes_N": np.linspace(0.5, 0.01, N).astype(np.float32)}
    run = jax.jit(partial(decode_attention, scale=H**-0.5, level=level, **options))
    actual = run(qkv, keys, values, lengths, np.ones(len(lengths), bool))
    expected = reference(qkv, keys, values, lengths, scale=H**-0.5, **options)
    for got, want, exact in zip(actual, expected, (False, True, True), strict=True):
        tolerance = 0 if exact else {"float32": 2e-6, "bfloat16": 1e-2}[dtype]
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize(("H", "half"), [(64, 32), (128, 64), (16, 4), (80, 20), (256, 128)])
def test_rotation_equals_xla(level: Level, H: int, half: int) -> None:
    B, N, K, S = 3, 4, 2, 70
    qkv, keys, values = inputs(B, N, K, S, H)
    lengths = np.array([3, 69, 40], np.int32)
    angle = jnp.asarray(lengths[:, None] * 0.9 ** np.arange(half), jnp.float32)
    run = partial(decode_attention, scale=0.1, rotary=(jnp.cos(angle), jnp.sin(angle)), context=S)
    expected = run(qkv, keys, values, lengths, np.ones(B, bool), level=Level.XLA)
    actual = run(qkv, keys, values, lengths, np.ones(B, bool), level=level)
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("level", NATIVE)
def test_a_row_does_not_depend_on_its_batch(level: Level) -> None:
    qkv, keys, values = inputs(6, 4, 2, 200, 32)
    lengths, active = np.array([0, 10, 64, 130, 199, 77], np.int32), np.ones(6, bool)
    run = jax.jit(partial(decode_attention, scale=0.2, level=level))
    together = np.asarray(run(qkv, keys, values, lengths, active)[0])
    for b in range(6):
        alone = run(*(x[b : b + 1] for x in (qkv, keys, values, lengths, active)))[0]
        np.testing.assert_array_equal(np.asarray(alone[0]), together[b])


@pytest.mark.parametrize("level", NATIVE)
def test_idle_rows_and_full_rows_keep_their_cache(level: Level) -> None:
    qkv, keys, values = inputs(3, 2, 2, 20, 16)
    lengths, active = np.array([5, 20, 7], np.int32), np.array([False, True, True])
    out, new_keys, new_values = decode_attention(qkv, keys, values, lengths, active, scale=1.0, level=level)
    assert (np.asarray(out[0]) == 0).all()
    np.testing.assert_array_equal(np.asarray(new_keys[:2]), np.asarray(keys[:2]))
    np.testing.assert_array_equal(np.asarray(new_values[:2]), np.asarray(values[:2]))
    np.testing.assert_array_equal(np.asarray(new_keys[2, :, 7]), np.asarray(qkv[2, 2:4]))
    expected = reference(qkv, keys, values, lengths, scale=1.0)[0]
    np.testing.assert_allclose(np.asarray(out[1:]), expected[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("B", [1, 4])
def test_a_donated_cache_is_not_copied(level: Level, B: int) -> None:
    qkv, keys, values = inputs(B, 4, 2, 256, 32)
    at = keys.unsafe_buffer_pointer(), values.unsafe_buffer_pointer()
    run = jax.jit(partial(decode_attention, scale=1.0, level=level), donate_argnums=(1, 2))
    lengths, active = np.zeros(B, np.int32), np.ones(B, bool)
    compiled = run.lower(qkv, keys, values, lengths, active).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < keys.nbytes
    _, keys, values = run(qkv, keys, values, lengths, active)
    assert (keys.unsafe_buffer_pointer(), values.unsafe_buffer_pointer()) == at


@pytest.mark.parametrize("level", features())
def test_head_sizes_that_fit_no_vector_work_too(level: Level) -> None:
    qkv, keys, values = inputs(2, 2, 1, 9, 5)
    lengths = np.array([0, 8], np.int32)
    out = decode_attention(qkv, keys, values, lengths, np.ones(2, bool), scale=0.4, level=level)[0]
    np.testing.assert_allclose(
        np.asarray(out), reference(qkv, keys, values, lengths, scale=0.4)[0], rtol=1e-5, atol=1e-6
    )
