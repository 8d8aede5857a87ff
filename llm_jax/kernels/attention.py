"""Attention of one new token per row, with its cache update in place, by a native kernel or by XLA."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.native import ATTENTION, Level, best_level, load, nothing

HEAD_STEP, LARGEST_HEAD = 16, 512  # head sizes of the native kernel: multiples, up to


def decode_attention(
    qkv_BEH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    lengths_B: Array,
    active_B: Array,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    slopes_N: np.ndarray | None = None,
    rotary: tuple[Array, Array] | None = None,
    context: int | None = None,
    level: Level | None = None,
) -> tuple[Array, Array, Array]:
    """Writes each active row's key and value at its length and attends over everything up to it.

    A row reads as many keys as it holds, whatever the others hold; one at capacity writes nothing. Rows that are
    not active cost nothing, keep their cache and give zeros (by XLA: anything, and their cache gains a token that
    nothing attends to).

    Args:
        qkv_BEH: the fused projection's rows: N query heads, then K key heads, then K value heads.
        keys_BKSH, values_BKSH: float32 or bfloat16; donate them to the jitted step, and nothing is copied. They may
            have more rows than there are new tokens; those behind take no part.
        lengths_B: int32, tokens that each row holds.
        active_B: bool.
        softcap: squeezes scores into (-softcap, softcap). window: keys seen, the new one included.
        slopes_N: ALiBi, subtracted per token of distance.
        rotary: cosines and sines [B, rotated dimensions / 2] float32 of the new positions; pairs are
            (i, i + half). None where q and k need no turn, or have had it.
        context: static, above every active length: all that XLA reads. The native kernel needs no such bound.

    Returns:
        out [B, N, H] in qkv's dtype, and both caches.
    """
    level = best_level() if level is None else level
    B, K, H = qkv_BEH.shape[0], keys_BKSH.shape[1], keys_BKSH.shape[3]
    N = qkv_BEH.shape[1] - 2 * K
    if level == Level.XLA or H % HEAD_STEP or H > LARGEST_HEAD:
        return _by_xla(
            qkv_BEH, keys_BKSH, values_BKSH, lengths_B, scale=scale, softcap=softcap, window=window,
            slopes_N=slopes_N, rotary=rotary, context=context,
        )  # fmt: skip
    load()
    cosine, sine = (nothing(), nothing()) if rotary is None else rotary
    call = jax.ffi.ffi_call(
        ATTENTION,
        (
            jax.ShapeDtypeStruct((B, N, H), qkv_BEH.dtype),
            jax.ShapeDtypeStruct(keys_BKSH.shape, keys_BKSH.dtype),
            jax.ShapeDtypeStruct(values_BKSH.shape, values_BKSH.dtype),
        ),
        input_output_aliases={1: 1, 2: 2},
    )
    out_BNH, keys_BKSH, values_BKSH = call(
        qkv_BEH,
        keys_BKSH,
        values_BKSH,
        lengths_B,
        active_B,
        nothing() if slopes_N is None else slopes_N.astype(np.float32),
        cosine,
        sine,
        level=np.int64(level),
        window=np.int64(window or 0),
        scale=np.float32(scale),
        softcap=np.float32(softcap or 0.0),
    )
    return out_BNH, keys_BKSH, values_BKSH


def _by_xla(
    qkv_BEH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    lengths_B: Array,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    slopes_N: np.ndarray | None,
    rotary: tuple[Array, Array] | None,
    context: int | None,
) -> tuple[Array, Array, Array]:
    B, (K, S, H) = qkv_BEH.shape[0], keys_BKSH.shape[1:]
    N = qkv_BEH.shape[1] - 2 * K
    q_BNH, k_BKH, v_BKH = qkv_BEH[:, :N], qkv_BEH[:, N : N + K], qkv_BEH[:, N + K :]
    if rotary is not None:
        q_BNH, k_BKH = _turn(q_BNH, *rotary), _turn(k_BKH, *rotary)
    row_B1, head_1K = jnp.arange(B)[:, None], jnp.arange(K)[None]
    keys_BKSH, values_BKSH = (
        cache.at[row_B1, head_1K, lengths_B[:, None]].set(new.astype(cache.dtype), mode="drop")
        for cache, new in ((keys_BKSH, k_BKH), (values_BKSH, v_BKH))
    )
    C = context or S
    q_BKGH = q_BNH.reshape(B, K, N // K, H).astype(jnp.float32)
    score = jnp.einsum("BKGH,BKSH->BKGS", q_BKGH, keys_BKSH[:B, :, :C].astype(jnp.float32)) * scale
    if softcap is not None:
        score = softcap * jnp.tanh(score / softcap)
    distance_BS = lengths_B[:, None] - jnp.arange(C)
    if slopes_N is not None:
        score -= slopes_N.reshape(1, K, N // K, 1) * jnp.abs(distance_BS)[:, None, None].astype(jnp.float32)
    seen_BS = distance_BS >= 0
    if window is not None:
        seen_BS &= distance_BS < window
    weight = jax.nn.softmax(jnp.where(seen_BS[:, None, None], score, -1e30), axis=-1)
    out = jnp.einsum("BKGS,BKSH->BKGH", weight, values_BKSH[:B, :, :C].astype(jnp.float32))
    return out.reshape(B, N, H).astype(qkv_BEH.dtype), keys_BKSH, values_BKSH


def _turn(x_BEH: Array, cosine_Bh: Array, sine_Bh: Array) -> Array:
    half = cosine_Bh.shape[1]
    first, second, rest = x_BEH[..., :half], x_BEH[..., half : 2 * half], x_BEH[..., 2 * half :]
    cos, sin = cosine_Bh[:, None], sine_Bh[:, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.astype(x_BEH.dtype), rest], axis=-1)
