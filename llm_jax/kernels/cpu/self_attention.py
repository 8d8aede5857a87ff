"""Attention of tokens over each other, and its gradient, by the native kernels."""

from functools import partial
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
) -> Array:
    """See `llm_jax.kernels.attention`."""

    def of_tokens(x: Array | None, dtype: type) -> Any:
        """The kernel reads a value of each token: rows that are all alike are given once by some callers."""
        return placeholder(dtype) if x is None else jnp.broadcast_to(x.astype(dtype), (B, T, *x.shape[2:]))

    load()
    B, T = qkv_BTJH.shape[:2]
    cosine, sine = (None, None) if rotary is None else rotary
    attributes = {
        "level": np.int64(level),
        "kv_heads": np.int64(kv_heads),
        "window": np.int64(settings.window or 0),
        "scale": np.float32(settings.scale),
        "softcap": np.float32(settings.softcap or 0.0),
        "is_causal": settings.is_causal,
    }
    return _attend(
        attributes,
        qkv_BTJH,
        placeholder() if sinks_N is None else sinks_N.astype(jnp.float32),
        placeholder() if settings.slopes_N is None else settings.slopes_N.astype(np.float32),
        of_tokens(position_BT, np.int32),
        of_tokens(segment_BT, np.int32),
        of_tokens(cosine, np.float32),
        of_tokens(sine, np.float32),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(attributes: dict[str, Any], qkv_BTJH: Array, sinks_N: Array, *others: Array) -> Array:
    return _forward(attributes, qkv_BTJH, sinks_N, *others)[0]


def _forward(attributes: dict[str, Any], qkv_BTJH: Array, sinks_N: Array, *others: Array) -> tuple[Array, Any]:
    B, T, J, H = qkv_BTJH.shape
    N = J - 2 * int(attributes["kv_heads"])
    shapes = jax.ShapeDtypeStruct((B, T, N, H), qkv_BTJH.dtype), jax.ShapeDtypeStruct((B, N, T), jnp.float32)
    call = jax.ffi.ffi_call(SELF_ATTENTION, shapes, vmap_method="sequential")
    out_BTNH, logsumexp_BNT = call(qkv_BTJH, sinks_N, *others, **attributes)
    return out_BTNH, (qkv_BTJH, sinks_N, others, out_BTNH, logsumexp_BNT)


def _backward(attributes: dict[str, Any], saved: Any, of_out_BTNH: Array) -> tuple[Array | None, ...]:
    qkv_BTJH, sinks_N, others, out_BTNH, logsumexp_BNT = saved
    shapes = (
        jax.ShapeDtypeStruct(qkv_BTJH.shape, qkv_BTJH.dtype),
        jax.ShapeDtypeStruct(logsumexp_BNT.shape, jnp.float32),
    )
    call = jax.ffi.ffi_call(SELF_ATTENTION_GRADIENT, shapes, vmap_method="sequential")
    # mean_BNT: the gradients of each query's weights, averaged by these.
    of_qkv_BTJH, mean_BNT = call(qkv_BTJH, sinks_N, *others, out_BTNH, logsumexp_BNT, of_out_BTNH, **attributes)
    of_sinks_N = sinks_N
    if sinks_N.size:
        of_sinks_N = -(jnp.exp(sinks_N[:, None] - logsumexp_BNT) * mean_BNT).sum((0, 2))
    return of_qkv_BTJH, of_sinks_N, *(None for _ in others)


_attend.defvjp(_forward, _backward)
