"""Attention on the best backend for its inputs: `cpu` (native, over a cache alone) or `xla` (everything, anywhere).

Two functions: attention of tokens over each other, and of new tokens over a cache.
"""

from jax import Array

from llm_jax.kernels import cpu, xla
from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cpu import best_level
from llm_jax.native import Level


def attention(
    qkv_BTJH: Array,
    kv_heads: int,
    position_BT: Array,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None = None,
    allowed: Array | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Attention of tokens over each other, [B, T, N, H] in qkv's dtype; differentiable.

    Args:
        qkv_BTJH: the fused projection's heads: N of queries, then K = `kv_heads` of keys, then K of values.
        position_BT: int32.
        rotary: cosines and sines [B, T, h] float32 of the positions; None leaves q and k as they are.
        allowed: bool, broadcastable to [B, 1, T, S]: pairs that may attend, beside causality and window.
        dropout_key: a PRNG key drops attention weights.
    """
    return xla.attention(
        qkv_BTJH, kv_heads, position_BT, settings, rotary=rotary, allowed=allowed, dropout_key=dropout_key
    )


def cached_attention(
    qkv_BTJH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    layout: ChunkLayout,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None = None,
    allowed: Array | None = None,
    context: int | None = None,
    level: Level | None = None,
) -> tuple[Array, Array, Array]:
    """Appends each sequence's new keys and values to its slot; each new token attends to all up to itself.

    A sequence reads as many keys as it has cached, whatever the others have; what is beyond the capacity is not
    written. With a window the cache may be a ring (see `cache_format`).
    Natively, a token's result does not depend, to the last bit, on other sequences or on T. Padding costs nothing,
    writes nothing and gives zeros; by XLA it gives anything and is written, behind the tokens that count.

    Args:
        qkv_BTJH: the fused projection's heads: N of queries, then K of keys, then K of values.
        keys_BKSH, values_BKSH: the cache, float32, bfloat16 or int8 (see `cache_format`), S tokens for each slot;
            donate them to the jitted step, and nothing is copied. It may have more slots than there are sequences.
        rotary: cosines and sines [B, T, h] float32 of the new positions; None leaves q and k as they are.
        allowed: bool, broadcastable to [B, 1, T, S]: pairs that may attend, beside causality and window. By XLA.
        context: static, above every position of a token that counts: all that XLA reads. The native kernel needs no
            such bound.
        level: which kernels run; the best of this machine unless given.

    Raises:
        ValueError: a ragged layout without the native kernel.

    Returns:
        out [B, T, N, H] in qkv's dtype, and both caches.
    """
    level = best_level() if level is None else level
    is_native = has_native_attention(qkv_BTJH.shape[3], level) and settings.is_causal and allowed is None
    if is_native:
        return cpu.cached_attention(qkv_BTJH, keys_BKSH, values_BKSH, layout, settings, rotary=rotary, level=level)
    if layout.starts is not None:
        raise ValueError("Sequences of different numbers of tokens in one call need the native kernel.")
    return xla.cached_attention(
        qkv_BTJH, keys_BKSH, values_BKSH, layout, settings, rotary=rotary, allowed=allowed, context=context
    )


def has_native_attention(head_size: int, level: Level) -> bool:
    """Whether `cached_attention` of causal layers runs natively: ragged, and with no need of a `context`."""
    return level != Level.XLA and head_size % cpu.HEAD_STEP == 0 and head_size <= cpu.LARGEST_HEAD
