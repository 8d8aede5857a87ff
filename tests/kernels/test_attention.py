"""Attention over the cache, with its update, against float64 and against XLA's."""

import itertools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import (
    NO_BLOCK,
    AttentionSettings,
    ChunkLayout,
    Level,
    cached_attention,
    decode,
    encode,
    features,
    xla,
)
from tests.compiled import compiled

NATIVE = [level for level in features() if level != Level.XLA]
as_cached = jax.jit(encode, static_argnames="dtype")


def in_order(
    qkv: np.ndarray, keys: np.ndarray, values: np.ndarray, layout: ChunkLayout, *args: Any, **options: Any
) -> Any:
    """Attention where each sequence has the one block of its number."""
    blocks = np.arange(len(layout.cached_R), dtype=np.int32)[:, None]
    return cached_attention(qkv, keys, values, blocks, layout, *args, **options)


def layout_of(lengths: np.ndarray, new: np.ndarray | int, starts: np.ndarray | None = None) -> ChunkLayout:
    return ChunkLayout(lengths, np.broadcast_to(np.int32(new), lengths.shape), (), starts)


def inputs(
    B: int, T: int, N: int, K: int, S: int, H: int, dtype: str = "float32", cached: str | None = None
) -> tuple[np.ndarray, ...]:
    """NumPy's, so that slices of them compile nothing."""
    rng = np.random.default_rng(B * N + S)
    qkv = rng.normal(size=(B, T, N + 2 * K, H)).astype(jnp.dtype(dtype))
    rows = (rng.normal(size=(B, K, S, H)).astype(np.float32) for _ in "kv")
    keys, values = (np.asarray(as_cached(x, dtype=jnp.dtype(cached or dtype))) for x in rows)
    return qkv, keys, values


def reference(
    qkv: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    lengths: np.ndarray,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    slopes_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, k, v = (np.array(a, np.float64) for a in (qkv, keys, values))
    B, K, S, H = k.shape
    T, N = x.shape[1], x.shape[2] - 2 * K
    out = np.zeros((B, T, N, H))
    for b, t in np.ndindex(B, T):
        at = lengths[b] + t
        if at < S:
            k[b, :, at], v[b, :, at] = x[b, t, N : N + K], x[b, t, N + K :]
        seen = np.arange(S)
        seen = seen[(seen <= at) & (seen > at - (window or S + at))]
        for n in range(N):
            kv = n // (N // K)
            score = k[b, kv, seen] @ x[b, t, n] * scale
            if softcap:
                score = softcap * np.tanh(score / softcap)
            if slopes_N is not None:
                score -= slopes_N[n] * (at - seen)
            weight = np.exp(score - score.max())
            out[b, t, n] = weight / weight.sum() @ v[b, kv, seen]
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
    S, H = 170, 64
    lengths = np.array([0, 1, 63, 64, 65, 100, S - 20], np.int32)
    if "slopes_N" in options:
        options = {"slopes_N": np.linspace(0.5, 0.01, N).astype(np.float32)}
    for T in (1, 3, 20):
        qkv, keys, values = inputs(len(lengths), T, N, K, S, H, dtype)
        settings = AttentionSettings(scale=H**-0.5, **options)
        run = compiled(partial(in_order, settings=settings, level=level))
        actual = run(qkv, keys, values, layout_of(lengths, T))
        expected = reference(qkv, keys, values, lengths, scale=H**-0.5, **options)
        for got, want, exact in zip(actual, expected, (False, True, True), strict=True):
            tolerance = 0 if exact else {"float32": 2e-6, "bfloat16": 1e-2}[dtype]
            np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize(("H", "half"), [(64, 32), (128, 64), (16, 4), (80, 20), (512, 256)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 1e-2)])
def test_rotation_equals_xla(level: Level, H: int, half: int, dtype: str, tolerance: float) -> None:
    B, T, N, K, S = 3, 2, 4, 2, 70
    qkv, keys, values = inputs(B, T, N, K, S, H, dtype)
    lengths = np.array([3, 68, 40], np.int32)
    angle = ((lengths[:, None, None] + np.arange(T)[:, None]) * 0.9 ** np.arange(half)).astype(np.float32)
    layout, rotary = layout_of(lengths, T), (np.cos(angle), np.sin(angle))
    expected, actual = (
        compiled(partial(in_order, settings=AttentionSettings(scale=0.1), level=one))(
            qkv, keys, values, layout, rotary=rotary
        )
        for one in (Level.XLA, level)
    )
    for got, want in zip(actual, expected, strict=True):
        got, want = (np.asarray(x, np.float32) for x in (got, want))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("options", [{}, {"window": 50, "softcap": 5.0}, {"slopes_N": True}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("N", [2, 6])
def test_a_token_depends_on_its_own_row_and_position_only(
    level: Level, options: dict[str, Any], dtype: str, N: int
) -> None:
    T, K = 40, 2
    if "slopes_N" in options:
        options = {"slopes_N": np.linspace(0.5, 0.01, N).astype(np.float32)}
    qkv, keys, values = inputs(5, T, N, K, 200, 32, cached=dtype)
    lengths, new = np.array([0, 10, 64, 130, 160], np.int32), np.array([T, 3, T, 0, T], np.int32)
    run = jax.jit(partial(in_order, settings=AttentionSettings(scale=0.2, **options), level=level))
    together = np.asarray(run(qkv, keys, values, layout_of(lengths, new))[0])
    for b in range(5):
        own = keys[b : b + 1], values[b : b + 1]
        for t in range(new[b]):
            alone, *own = run(qkv[b : b + 1, t : t + 1], *own, layout_of(lengths[b : b + 1] + np.int32(t), 1))
            np.testing.assert_array_equal(np.asarray(alone)[0, 0], together[b, t])
        assert (together[b, new[b] :] == 0).all()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("options", [{}, {"window": 50}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_different_lengths_share_a_call(level: Level, options: dict[str, Any], dtype: str) -> None:
    counts, new = np.array([1, 0, 40, 3]), np.array([1, 0, 37, 3], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lengths = np.array([63, 5, 100, 0], np.int32)
    qkv = inputs(1, int(starts[-1]), 6, 2, 200, 32)[0]
    keys, values = inputs(4, 1, 6, 2, 200, 32, cached=dtype)[1:]
    half = np.random.default_rng(0).normal(size=(2, 1, int(starts[-1]), 16)).astype(np.float32)
    run = jax.jit(partial(in_order, settings=AttentionSettings(scale=0.2, **options), level=level))
    out, *caches = map(np.asarray, run(qkv, keys, values, layout_of(lengths, new, starts), rotary=tuple(half)))
    for row, (first, end) in enumerate(itertools.pairwise(starts)):
        own = slice(row, row + 1)
        if first == end:
            for cache, before in zip(caches, (keys, values), strict=True):
                np.testing.assert_array_equal(cache[own], before[own])
            continue
        turn = tuple(half[:, :, first:end])
        alone = run(qkv[:, first:end], keys[own], values[own], layout_of(lengths[own], new[own]), rotary=turn)
        for got, want in zip((out[:, first:end], caches[0][own], caches[1][own]), alone, strict=True):
            np.testing.assert_array_equal(got, np.asarray(want))


@pytest.mark.parametrize("level", features())
def test_int8_rows_stay_within_half_a_level(level: Level) -> None:
    B, T, N, K, S, H = 3, 2, 4, 2, 150, 48
    lengths = np.array([0, 64, 140], np.int32)
    qkv, keys, values = inputs(B, T, N, K, S, H, cached="int8")
    layout, settings = layout_of(lengths, T), AttentionSettings(scale=H**-0.5)
    run = jax.jit(partial(in_order, settings=settings, level=level))
    out, new_keys, new_values = run(qkv, keys, values, layout)
    plain = (decode(x, jnp.dtype("float32")) for x in (keys, values))
    exact, exact_keys, exact_values = reference(qkv, *plain, lengths, scale=H**-0.5)
    for rows, want in ((new_keys, exact_keys), (new_values, exact_values)):
        level_size = np.abs(want).max(-1, keepdims=True) / 127
        assert (np.abs(np.asarray(decode(rows, jnp.dtype("float32"))) - want) <= 0.501 * level_size).all()
    np.testing.assert_allclose(np.asarray(out), exact, atol=0.03)


@pytest.mark.parametrize("level", NATIVE)
def test_int8_rows_are_written_and_read_as_xla_does(level: Level) -> None:
    qkv, keys, values = inputs(3, 2, 4, 2, 150, 48, cached="int8")
    layout = layout_of(np.array([0, 64, 140], np.int32), 2)
    run = partial(in_order, settings=AttentionSettings(scale=0.2))
    (out, *rows), (expected, *expected_rows) = (
        jax.jit(partial(run, level=one))(qkv, keys, values, layout) for one in (level, Level.XLA)
    )
    np.testing.assert_allclose(np.asarray(out), np.asarray(expected), rtol=3e-6, atol=3e-6)
    for got, want in zip(rows, expected_rows, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("level", features())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, 50])
def test_blocks_anywhere_give_what_one_long_block_gives(level: Level, dtype: str, window: int | None) -> None:
    """Two sequences that share their first block; with a window, the blocks behind it are given away, full of NaN."""
    S, X, H = 512, 64, 32
    long = [x.copy() for x in inputs(2, 1, 4, 2, S, H, cached=dtype)[1:]]
    for x in long:
        x[1, :, :X] = x[0, :, :X]
    order = np.random.default_rng(3).permutation(20)[: 2 * S // X].reshape(2, -1).astype(np.int32)
    order[1, 0] = order[0, 0]
    poison = np.full((20, 2, X, long[0].shape[-1]), -128 if dtype == "int8" else np.nan, long[0].dtype)
    pool = [poison.copy() for _ in long]
    for blocks, x in zip(pool, long, strict=True):
        blocks[order] = x.reshape(2, 2, S // X, X, -1).swapaxes(1, 2)
    run = compiled(partial(cached_attention, settings=AttentionSettings(scale=0.2, window=window), level=level))
    lengths, T = np.array([70, 64], np.int32), 0
    while lengths.max() < S - 40:
        for T, new in ((40, (40, 33)), (8, (1, 8)), (1, (1, 0)), (16, (5, 16))):
            blocks = order.copy()
            blocks[np.arange(S // X) * X >= (lengths + new)[:, None]] = NO_BLOCK
            if window is not None:
                gone = (np.arange(S // X) + 1) * X <= (lengths + 1 - window)[:, None]
                blocks[gone] = np.where(np.arange(gone.sum()) % 2, NO_BLOCK, 19)
                for x in pool:
                    x[order[gone & (order != order[0, 0])]] = poison[0]
            qkv = inputs(2, T, 4, 2, S + int(lengths.sum()), H)[0]
            layout = layout_of(lengths, np.array(new, np.int32))
            expected, *long = run(qkv, *long, np.arange(2, dtype=np.int32)[:, None], layout)
            actual, *pool = run(qkv, *pool, blocks, layout)
            pool = [np.array(x) for x in pool]
            for b in range(2):
                got, want = np.asarray(actual)[b, : new[b]], np.asarray(expected)[b, : new[b]]
                np.testing.assert_allclose(got, want, rtol=0 if level else 1e-5, atol=0 if level else 1e-5)
            lengths = lengths + np.array(new, np.int32)


@pytest.mark.parametrize("level", features())
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_layers_that_share_an_array_change_their_own_blocks_alone(level: Level, dtype: str) -> None:
    """Three layers of two blocks each; a sequence of the middle one lacks its second block."""
    qkv, keys, values = inputs(6, 3, 4, 2, 64, 32, cached=dtype)
    lengths = np.array([70, 5], np.int32)
    attend = partial(cached_attention, settings=AttentionSettings(scale=0.2), level=level)
    run = jax.jit(attend, static_argnames="first_block")
    blocks = np.array([[0, 1], [1, NO_BLOCK]], np.int32)
    layout = layout_of(lengths, np.array([3, 0], np.int32))
    out, *caches = map(np.asarray, run(qkv[:2], keys, values, blocks, layout, first_block=2))
    alone, *own = map(np.asarray, run(qkv[:2], keys[2:4], values[2:4], blocks, layout))
    np.testing.assert_array_equal(out[0], alone[0])
    for cache, before, middle in zip(caches, (keys, values), own, strict=True):
        np.testing.assert_array_equal(cache[2:4], middle)
        np.testing.assert_array_equal(cache[[0, 1, 4, 5]], before[[0, 1, 4, 5]])
        assert (cache[3] != before[3]).any()


@pytest.mark.parametrize("level", NATIVE)
def test_idle_rows_and_full_rows_keep_their_cache(level: Level) -> None:
    qkv, keys, values = inputs(3, 2, 2, 2, 20, 16)
    lengths, new = np.array([5, 20, 7], np.int32), np.array([0, 2, 1], np.int32)
    layout, settings = layout_of(lengths, new), AttentionSettings(scale=1.0)
    out, new_keys, new_values = map(np.asarray, in_order(qkv, keys, values, layout, settings, level=level))
    assert (out[0] == 0).all()
    np.testing.assert_array_equal(new_keys[:2], keys[:2])
    np.testing.assert_array_equal(new_values[:2], values[:2])
    np.testing.assert_array_equal(new_keys[2, :, 7], qkv[2, 0, 2:4])
    np.testing.assert_array_equal(new_keys[2, :, 8], keys[2, :, 8])
    expected = reference(qkv, keys, values, lengths, scale=1.0)[0]
    np.testing.assert_allclose(out[1:, 0], expected[1:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize(("B", "T"), [(1, 1), (4, 1), (1, 8), (1, 256)])
def test_a_donated_cache_is_not_copied(level: Level, B: int, T: int) -> None:
    qkv, keys, values = map(jnp.array, inputs(B, T, 4, 2, 1024, 32))
    at = keys.unsafe_buffer_pointer(), values.unsafe_buffer_pointer()
    settings = AttentionSettings(scale=1.0)
    run = jax.jit(partial(in_order, settings=settings, level=level), donate_argnums=(1, 2))
    layout = layout_of(np.zeros(B, np.int32), T)
    memory = run.lower(qkv, keys, values, layout).compile().memory_analysis()
    assert memory.temp_size_in_bytes < keys.nbytes
    _, keys, values = run(qkv, keys, values, layout)
    assert (keys.unsafe_buffer_pointer(), values.unsafe_buffer_pointer()) == at


@pytest.mark.parametrize("level", features())
def test_head_sizes_that_fit_no_vector_work_too(level: Level) -> None:
    qkv, keys, values = inputs(2, 1, 2, 1, 9, 5)
    lengths = np.array([0, 8], np.int32)
    layout, settings = layout_of(lengths, 1), AttentionSettings(scale=0.4)
    out = jax.jit(partial(in_order, settings=settings, level=level))(qkv, keys, values, layout)[0]
    np.testing.assert_allclose(
        np.asarray(out), reference(qkv, keys, values, lengths, scale=0.4)[0], rtol=1e-5, atol=1e-6
    )


def test_the_gradient_of_bfloat16_attention_by_xla_is_near_float32s_and_multiplies_in_bfloat16() -> None:
    """Scores are summed in float32; JAX's own transpose of that would multiply in float32 too."""
    settings, position = AttentionSettings(scale=0.25), jnp.arange(24)[None]
    qkv = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 8, 16)), jnp.bfloat16)

    def total(x: jax.Array) -> jax.Array:
        out = xla.attention(
            x, 2, position, settings, rotary=None, sinks_N=None, segment_BT=None, allowed=None, dropout_key=None
        )
        return jnp.square(out.astype(jnp.float32)).sum()

    gradient = compiled(jax.grad(total))
    exact, actual = (np.asarray(gradient(x), np.float32) for x in (qkv.astype(jnp.float32), qkv))
    assert np.abs(actual - exact).max() < 0.03 * np.abs(exact).max()
    program = jax.jit(jax.grad(total)).lower(qkv).as_text()
    operands = re.findall(r"dot_general .*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", program)
    assert len(operands) >= 6  # two products forward, four backward
    assert set(operands) == {("bf16", "bf16")}
