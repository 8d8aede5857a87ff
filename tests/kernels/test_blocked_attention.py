"""Attention in blocks against the plain form in float64, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.kernels import AttentionSettings, attention
from llm_jax.kernels.xla import blocked_attention
from tests.kernels.plain_attention import compare, plain

B, T, N, K, H = 2, 11, 4, 2, 8
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [0] * 2, [1] * 3 + [2] * 8])
POSITIONS = np.array([[*range(5), *range(4), 0, 1], [*range(3), *range(8)]])
HIDDEN = np.random.default_rng(1).random((B, 1, T, T)) < 0.3
HIDDEN[:, :, np.arange(T), np.arange(T)] = False
CASES = {
    "causal": ({}, {}),
    "window, documents": ({"window": 3}, {"segment_BT": SEGMENTS, "position_BT": POSITIONS}),
    "documents, sinks": (
        {},
        {"segment_BT": SEGMENTS, "position_BT": POSITIONS, "sinks_N": np.float32([1, -2, 0.5, 3])},
    ),
    "soft cap, sinks, window": ({"softcap": 1.5, "window": 5}, {"sinks_N": np.float32([0.3, 1, -1, 2])}),
    "ALiBi, mask, both directions": ({"slopes_N": SLOPES, "is_causal": False}, {"allowed": ~HIDDEN}),
    "window of both directions": ({"is_causal": False, "window": 4}, {"allowed": ~HIDDEN[:1, :, :1]}),
    "other positions": ({"slopes_N": SLOPES}, {"position_BT": np.stack([np.arange(T)[::-1], np.arange(T) * 3 % T])}),
}


def inputs(arguments, seed=0):
    random = np.random.default_rng(seed)
    arrays = {
        "position_BT": np.broadcast_to(np.arange(T), (B, T)),
        "sinks_N": None,
        "segment_BT": None,
        "allowed": None,
    }
    qkv = random.normal(size=(B, T, N + 2 * K, H)).astype(np.float32)
    return qkv, random.normal(size=(B, T, N, H)).astype(np.float32), arrays | arguments


def in_blocks(qkv, sinks, settings, arrays, kv_heads=K, **options):
    given = {name: arrays[name] for name in ("segment_BT", "allowed")}
    options = {"dropout_key": None, "block_tokens": 4, "rotary": None} | options
    position_BT = jnp.asarray(arrays["position_BT"], jnp.int32)
    return blocked_attention(qkv, kv_heads, position_BT, settings, sinks_N=sinks, **given, **options)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_plain_attention_in_float64(name):
    options, arguments = CASES[name]
    settings = AttentionSettings(scale=0.6, **options)
    qkv, of_out, arrays = inputs(arguments)
    compare(
        jax.jit(lambda qkv, sinks: in_blocks(qkv, sinks, settings, arrays)), settings, arrays, qkv, of_out, kv_heads=K
    )


def test_dropout_drops_weights_and_its_gradient_drops_the_same():
    """The weights are seen through values that are one at a key each."""
    settings = AttentionSettings(scale=0.6, dropout=0.25)
    qkv, of_out, arrays = inputs({})
    run = jax.jit(lambda qkv, sinks: in_blocks(qkv, sinks, settings, arrays, dropout_key=jax.random.key(7)))
    seen = np.zeros((B, N, T, T))
    for first in range(0, T, H):
        marked = qkv.copy()
        marked[:, :, N + K :] = np.eye(T, T + H)[None, :, None, first : first + H]
        width = min(H, T - first)
        seen[..., first : first + width] = np.asarray(run(marked, None)).transpose(0, 2, 1, 3)[..., :width]
    retained = seen > 0
    causal = np.broadcast_to(np.tri(T, dtype=bool), retained.shape)
    assert not retained[~causal].any()
    assert 0.65 < retained[causal].mean() < 0.85
    assert len({retained[b, n, i].tobytes() for b in range(B) for n in range(N) for i in (9, 10)}) > 12, "all alike"
    compare(run, settings, arrays, qkv, of_out, kv_heads=K, retained=torch.tensor(retained / 0.75))


def test_bfloat16_is_close_and_stays_bfloat16():
    settings = AttentionSettings(scale=0.6)
    qkv, _, arrays = inputs({})
    out = in_blocks(jnp.asarray(qkv, jnp.bfloat16), None, settings, arrays)
    assert out.dtype == jnp.bfloat16
    expected = plain(torch.tensor(qkv, dtype=torch.float64), None, settings, arrays, kv_heads=K)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.05)


def memory(tokens, in_blocks_of):
    """Temporaries of attention and its gradient, in bytes; natively, or by XLA in blocks of so many tokens."""
    settings = AttentionSettings(scale=0.1)
    shape = jax.ShapeDtypeStruct((1, tokens, 6, 64), jnp.float32)
    arrays = {"position_BT": np.arange(tokens)[None], "segment_BT": None, "allowed": None}

    def loss(qkv):
        if in_blocks_of is None:
            out = attention(qkv, 1, jnp.asarray(arrays["position_BT"]), settings)
        else:
            out = in_blocks(qkv, None, settings, arrays, kv_heads=1, block_tokens=in_blocks_of)
        return jnp.square(out).sum()

    return jax.jit(jax.grad(loss)).lower(shape).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("in_blocks_of", [None, 128])
def test_memory_is_linear_in_tokens(in_blocks_of):
    assert memory(2048, in_blocks_of) <= 8 * memory(256, in_blocks_of) < 64 * 2**20
