"""Attention of tokens over each other, and its gradient, by the native kernels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.attention_inputs import AttentionSettings
from llm_jax.kernels.cpu.native import SELF_ATTENTION, SELF_ATTENTION_GRADIENT, load, placeholder
from llm_jax.native import Level


def self_attention(
    qkv_BTJH: Array,
    kv_heads: int,
    position_BT: Array,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    segment_BT: Array | None,
    level: Level,
) -> tuple[Array, Array]:
    """See `llm_jax.kernels.attention`; and the logsumexp of each query's scores, float32 [B, N, T]."""
    load()
    B, T, J, H = qkv_BTJH.shape
    N = J - 2 * kv_heads
    shapes = jax.ShapeDtypeStruct((B, T, N, H), qkv_BTJH.dtype), jax.ShapeDtypeStruct((B, N, T), jnp.float32)
    call = jax.ffi.ffi_call(SELF_ATTENTION, shapes, vmap_method="sequential")
    operands = _operands(qkv_BTJH, position_BT, settings, rotary, sinks_N, segment_BT)
    out_BTNH, logsumexp_BNT = call(*operands, **_attributes(kv_heads, settings, level))
    return out_BTNH, logsumexp_BNT


def self_attention_gradient(
    qkv_BTJH: Array,
    kv_heads: int,
    position_BT: Array,
    settings: AttentionSettings,
    out_BTNH: Array,
    logsumexp_BNT: Array,
    of_out_BTNH: Array,
    *,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    segment_BT: Array | None,
    level: Level,
) -> tuple[Array, Array]:
    """The gradient of qkv from that of the output; and that of each query's weights, averaged by these, [B, N, T]."""
    load()
    shapes = (
        jax.ShapeDtypeStruct(qkv_BTJH.shape, qkv_BTJH.dtype),
        jax.ShapeDtypeStruct(logsumexp_BNT.shape, jnp.float32),
    )
    call = jax.ffi.ffi_call(SELF_ATTENTION_GRADIENT, shapes, vmap_method="sequential")
    operands = _operands(qkv_BTJH, position_BT, settings, rotary, sinks_N, segment_BT)
    of_qkv_BTJH, mean_BNT = call(
        *operands, out_BTNH, logsumexp_BNT, of_out_BTNH, **_attributes(kv_heads, settings, level)
    )
    return of_qkv_BTJH, mean_BNT


def _operands(
    qkv_BTJH: Array,
    position_BT: Array,
    settings: AttentionSettings,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    segment_BT: Array | None,
) -> tuple[Any, ...]:
    def of_tokens(x: Array | None, dtype: type) -> Any:
        """The kernel reads a value of each token: rows that are all alike are given once by some callers."""
        return placeholder(dtype) if x is None else jnp.broadcast_to(x.astype(dtype), (B, T, *x.shape[2:]))

    B, T = qkv_BTJH.shape[:2]
    cosine, sine = (None, None) if rotary is None else rotary
    return (
        qkv_BTJH,
        of_tokens(position_BT, np.int32),
        of_tokens(segment_BT, np.int32),
        placeholder() if settings.slopes_N is None else settings.slopes_N.astype(np.float32),
        placeholder() if sinks_N is None else sinks_N.astype(jnp.float32),
        of_tokens(cosine, np.float32),
        of_tokens(sine, np.float32),
    )


def _attributes(kv_heads: int, settings: AttentionSettings, level: Level) -> dict[str, Any]:
    return {
        "level": np.int64(level),
        "kv_heads": np.int64(kv_heads),
        "window": np.int64(settings.window or 0),
        "scale": np.float32(settings.scale),
        "softcap": np.float32(settings.softcap or 0.0),
        "is_causal": settings.is_causal,
    }
