"""Native attention of tokens over each other against the plain form in float64, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.kernels import AttentionSettings, Level, attention, features
from tests.kernels.plain_attention import compare, plain

LEVELS = [level for level in features() if level > Level.XLA]
pytestmark = pytest.mark.skipif(not LEVELS, reason="no native kernels for this processor, or no compiler")
B, N, K = 2, 4, 2
SLOPES = np.float32([0.5, 0.25, 0.125, 0.0625])
SINKS = np.float32([0.3, 1, -1, 2])


def documents(tokens):
    """Positions that restart, and segments, of a few documents in each row."""
    rows = [[tokens // 3, tokens - tokens // 3], [tokens // 2, 1, tokens - tokens // 2 - 1]]
    position = [np.concatenate([np.arange(length) for length in row]) for row in rows]
    segment = [np.repeat(np.arange(len(row)), row) for row in rows]
    return {"position_BT": np.stack(position), "segment_BT": np.stack(segment)}


def mixed(tokens):
    """Positions in no order, so that no block is left out by its bounds alone."""
    return {"position_BT": np.random.default_rng(2).permuted(np.tile(np.arange(tokens), (B, 1)), axis=1)}


CASES = {
    "causal": ({}, lambda tokens: {}),
    "window": ({"window": 20}, lambda tokens: {}),
    "documents, sinks": ({}, lambda tokens: documents(tokens) | {"sinks_N": SINKS}),
    "soft cap, sinks, window": ({"softcap": 1.5, "window": 70}, lambda tokens: {"sinks_N": SINKS}),
    "ALiBi, both directions, documents": ({"slopes_N": SLOPES, "is_causal": False}, documents),
    "window of both directions": ({"is_causal": False, "window": 30}, lambda tokens: {}),
    "positions in no order": ({"slopes_N": SLOPES}, mixed),
}


def inputs(tokens, size, arguments):
    random = np.random.default_rng(0)
    position_BT = np.broadcast_to(np.arange(tokens), (B, tokens))
    arrays = {"position_BT": position_BT, "sinks_N": None, "segment_BT": None, "allowed": None} | arguments
    qkv = random.normal(size=(B, tokens, N + 2 * K, size)).astype(np.float32)
    return qkv, random.normal(size=(B, tokens, N, size)).astype(np.float32), arrays


def angles(position_BT, pairs):
    angle = position_BT[..., None] * 0.5 ** np.arange(pairs)
    return np.float32(np.cos(angle)), np.float32(np.sin(angle))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("tokens", "size", "pairs"), [(1, 16, 8), (64, 16, 0), (150, 48, 10), (70, 128, 64)])
def test_values_and_gradients_are_those_of_plain_attention_in_float64(level, name, tokens, size, pairs):
    options, make = CASES[name]
    settings = AttentionSettings(scale=size**-0.5, **options)
    qkv, of_out, arrays = inputs(tokens, size, {} if tokens == 1 else make(tokens))
    rotary = angles(arrays["position_BT"], pairs) if pairs else None
    position_BT, segment_BT = jnp.asarray(arrays["position_BT"]), arrays["segment_BT"]
    segment_BT = None if segment_BT is None else jnp.asarray(segment_BT)

    def run(qkv, sinks):
        options = {"rotary": rotary, "sinks_N": sinks, "segment_BT": segment_BT, "level": level}
        return attention(qkv, K, position_BT, settings, **options)

    assert "llm_self_attention" in jax.jit(run).lower(qkv, arrays["sinks_N"]).as_text()
    compare(jax.jit(run), settings, arrays, qkv, of_out, kv_heads=K, rotary=rotary, tolerance=2e-5)


def test_positions_of_one_row_are_those_of_all():
    settings = AttentionSettings(scale=0.25)
    qkv, _, arrays = inputs(70, 16, {})
    position_BT = jnp.asarray(arrays["position_BT"])
    rotary = angles(arrays["position_BT"], 4)
    of_each = attention(jnp.asarray(qkv), K, position_BT, settings, rotary=rotary)
    of_one = attention(jnp.asarray(qkv), K, position_BT[:1], settings, rotary=tuple(table[:1] for table in rotary))
    np.testing.assert_array_equal(of_one, of_each)


def test_bfloat16_is_computed_in_float32_and_rounded_once():
    settings = AttentionSettings(scale=0.25)
    qkv, of_out, arrays = inputs(150, 16, {})
    qkv, of_out = (jnp.asarray(x, jnp.bfloat16) for x in (qkv, of_out))
    wide = torch.tensor(np.asarray(qkv, np.float64), requires_grad=True)
    expected = plain(wide, None, settings, arrays, kv_heads=K)
    (expected * torch.tensor(np.asarray(of_out, np.float64))).sum().backward()
    out, pull_back = jax.vjp(lambda qkv: attention(qkv, K, jnp.asarray(arrays["position_BT"]), settings), qkv)
    (gradient,) = pull_back(of_out)
    assert out.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), expected.detach(), rtol=2**-8, atol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), wide.grad, rtol=2**-8, atol=3e-2)


def test_a_run_gives_the_same_bits_again():
    settings = AttentionSettings(scale=0.25)
    qkv, of_out, arrays = inputs(300, 64, {})
    position_BT = jnp.asarray(arrays["position_BT"])

    def run():
        out, pull_back = jax.vjp(lambda qkv: attention(qkv, K, position_BT, settings), jnp.asarray(qkv))
        return np.asarray(out).tobytes() + np.asarray(*pull_back(jnp.asarray(of_out))).tobytes()

    assert len({run() for _ in range(5)}) == 1
