"""Attention on the best backend for its inputs: `cpu` (native) or `xla` (everything, anywhere).

Two functions: attention of tokens over each other, and of new tokens over a cache.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu, xla
from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cpu import best_level
from llm_jax.native import Level

# Tokens of a block; as many or fewer attend in the plain form. A CPU keeps a block's scores in its cache: T 1024 takes
# a third of the plain form's time, forward and backward. A GPU needs large products.
CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS = 128, 1024


def attention(
    qkv_BTJH: Array,
    kv_heads: int,
    position_BT: Array,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None = None,
    sinks_N: Array | None = None,
    segment_BT: Array | None = None,
    allowed: Array | None = None,
    dropout_key: Array | None = None,
    level: Level | None = None,
) -> Array:
    """Attention of tokens over each other, [B, T, N, H] in qkv's dtype; differentiable.

    Natively on one processor, without dropout and `allowed`, else by XLA. Natively, and of more tokens than a block by
    XLA, in blocks: memory is then linear in T, in the backward pass too.

    Args:
        qkv_BTJH: the fused projection's heads: N of queries, then K = `kv_heads` of keys, then K of values.
        position_BT: int32.
        rotary: cosines and sines [B, T, h] float32 of the positions; None leaves q and k as they are.
        sinks_N: scores that join each head's softmax and have no value.
        segment_BT: int; tokens attend within their own segment.
        allowed: bool, broadcastable to [B, 1, T, S]: pairs that may attend, beside causality and window.
        dropout_key: a PRNG key drops attention weights.
        level: which kernels run; the best of this machine unless given.
    """
    level = best_level() if level is None else level
    is_dropping = dropout_key is not None and settings.dropout > 0.0
    is_native = has_native_attention(qkv_BTJH.shape[3], level) and qkv_BTJH.dtype in (jnp.float32, jnp.bfloat16)
    attend: Callable[..., Array]
    # XLA does not divide a native call among devices.
    if is_native and allowed is None and not is_dropping and jax.device_count() == 1:
        attend = partial(cpu.self_attention, level=level)
    else:
        block_tokens = CPU_BLOCK_TOKENS if jax.default_backend() == "cpu" else GPU_BLOCK_TOKENS
        is_short = qkv_BTJH.shape[1] <= block_tokens
        form = xla.attention if is_short else partial(xla.blocked_attention, block_tokens=block_tokens)
        attend = partial(form, allowed=allowed, dropout_key=dropout_key)
    return attend(qkv_BTJH, kv_heads, position_BT, settings, rotary=rotary, sinks_N=sinks_N, segment_BT=segment_BT)


def cached_attention(
    qkv_BTJH: Array,
    keys_ZKXH: Array,
    values_ZKXH: Array,
    blocks_RY: Array,
    layout: ChunkLayout,
    settings: AttentionSettings,
    *,
    first_block: int = 0,
    rotary: tuple[Array, Array] | None = None,
    sinks_N: Array | None = None,
    allowed: Array | None = None,
    level: Level | None = None,
) -> tuple[Array, Array, Array]:
    """Appends each sequence's new keys and values to its blocks; each new token attends to all up to itself.

    What is beyond a sequence's blocks is not written, and padding is neither. Natively, a sequence reads as many keys
    as it has cached, and a token's result does not depend, to the last bit, on other sequences or on T; by XLA all
    sequences read all of their Y blocks.

    Args:
        qkv_BTJH: the fused projection's heads: N of queries, then K of keys, then K of values.
        keys_ZKXH, values_ZKXH: Z blocks of X tokens, float32, bfloat16 or int8 (see `cache_format`); donate them to the
            jitted step, and nothing is copied.
        blocks_RY: int32, see `ChunkLayout`; those of this layer's group. A block that several sequences have must not
            be written.
        first_block: which of the Z blocks is number 0 of `blocks_RY`: several layers' blocks may be in the arrays.
        rotary: cosines and sines [B, T, h] float32 of the new positions; None leaves q and k as they are.
        sinks_N: scores that join each head's softmax and have no value. By XLA.
        allowed: bool, broadcastable to [B, 1, T, S] with S = Y · X: pairs that may attend, beside causality and
            window. By XLA.
        level: which kernels run; the best of this machine unless given.

    Raises:
        ValueError: a ragged layout without the native kernel.

    Returns:
        out [B, T, N, H] in qkv's dtype, and both caches. That of padding means nothing.
    """
    level = best_level() if level is None else level
    inputs = qkv_BTJH, keys_ZKXH, values_ZKXH, blocks_RY, layout, settings
    is_native = has_native_attention(qkv_BTJH.shape[3], level) and settings.is_causal
    if is_native and allowed is None and sinks_N is None:
        return cpu.cached_attention(*inputs, first_block=first_block, rotary=rotary, level=level)
    if layout.starts is not None:
        raise ValueError("Sequences of different numbers of tokens in one call need the native kernel.")
    return xla.cached_attention(*inputs, first_block=first_block, rotary=rotary, sinks_N=sinks_N, allowed=allowed)


def has_native_attention(head_size: int, level: Level) -> bool:
    """Whether `cached_attention` of causal layers runs natively, and ragged."""
    return level != Level.XLA and head_size % cpu.HEAD_STEP == 0 and head_size <= cpu.LARGEST_HEAD


def empty(shape: tuple[int, ...], dtype: jnp.dtype | str, level: Level) -> Array:
    """Memory for keys or values. With native kernels, the system provides it as it is first written."""
    return jnp.zeros(shape, dtype) if level == Level.XLA else cpu.empty(shape, dtype)
