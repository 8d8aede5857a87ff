"""Attention of new tokens over the cache, with its update in place, by a native kernel or by XLA."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cached import from_rows, held_positions, slots, to_rows
from llm_jax.kernels.native import ATTENTION, Level, best_level, load, nothing

HEAD_STEP, LARGEST_HEAD = 16, 512  # head sizes of the native kernel: multiples, up to


def cached_attention(
    qkv_BTEH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    lengths_R: Array,
    live_R: Array,
    *,
    starts: Array | None = None,
    first_row: Array | None = None,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    slopes_N: np.ndarray | None = None,
    rotary: tuple[Array, Array] | None = None,
    context: int | None = None,
    level: Level | None = None,
) -> tuple[Array, Array, Array]:
    """Writes each row's new keys and values behind what it holds; each new token attends to all up to itself.

    A row reads as many keys as it holds, whatever the others hold; what is beyond the capacity is not written. With
    a window the cache may be a ring (see `cached`).
    Natively, a token's result does not depend, to the last bit, on other rows or on T. Tokens that are not live cost
    nothing, write nothing and give zeros; by XLA they give anything and are written, behind the live ones.

    Args:
        qkv_BTEH: the fused projection's rows: N query heads, then K key heads, then K value heads.
        keys_BKSH, values_BKSH: rows of float32, bfloat16 or int8 (see `cached`); donate them to the jitted step, and
            nothing is copied. They may have more batch rows than there are new tokens; the others take no part.
        lengths_R: int32, tokens that each row holds.
        live_R: int32, how many of a row's new tokens count, from the first.
        starts: int32 [R + 1], where B is 1 and the T tokens are those of R rows in turn: row r's are starts[r] …
            starts[r + 1] - 1. None where each of R = B rows has T. Natively only.
        first_row: int32, the cache's row that belongs to the first of the R; None is row 0.
        softcap: squeezes scores into (-softcap, softcap). window: keys seen, the token's own included.
        slopes_N: ALiBi, subtracted per token of distance.
        rotary: cosines and sines [B, T, rotated dimensions / 2] float32 of the new positions; pairs are
            (i, i + half). None where q and k need no turn, or have had it.
        context: static, above every live token's position: all that XLA reads. The native kernel needs no such bound.

    Raises:
        ValueError: `starts` without the native kernel.

    Returns:
        out [B, T, N, H] in qkv's dtype, and both caches.
    """
    level = best_level() if level is None else level
    B, T, E, H = qkv_BTEH.shape
    N = E - 2 * keys_BKSH.shape[1]
    if not has_native_attention(H, level):
        if starts is not None:
            raise ValueError("Rows of different numbers of tokens in one call need the native kernel.")
        return _by_xla(
            qkv_BTEH, keys_BKSH, values_BKSH, lengths_R, first_row, scale=scale, softcap=softcap, window=window,
            slopes_N=slopes_N, rotary=rotary, context=context,
        )  # fmt: skip
    load()
    cosine, sine = (nothing(), nothing()) if rotary is None else rotary
    call = jax.ffi.ffi_call(
        ATTENTION,
        (
            jax.ShapeDtypeStruct((B, T, N, H), qkv_BTEH.dtype),
            jax.ShapeDtypeStruct(keys_BKSH.shape, keys_BKSH.dtype),
            jax.ShapeDtypeStruct(values_BKSH.shape, values_BKSH.dtype),
        ),
        input_output_aliases={1: 1, 2: 2},
    )
    out_BTNH, keys_BKSH, values_BKSH = call(
        qkv_BTEH,
        keys_BKSH,
        values_BKSH,
        np.arange(B + 1, dtype=np.int32) * T if starts is None else starts,
        lengths_R,
        live_R,
        np.int32(0) if first_row is None else first_row,
        nothing() if slopes_N is None else slopes_N.astype(np.float32),
        cosine,
        sine,
        level=np.int64(level),
        window=np.int64(window or 0),
        scale=np.float32(scale),
        softcap=np.float32(softcap or 0.0),
    )
    return out_BTNH, keys_BKSH, values_BKSH


def has_native_attention(head_size: int, level: Level) -> bool:
    """Whether `cached_attention` runs natively: then it needs no `context`, and reads what each row holds."""
    return level != Level.XLA and head_size % HEAD_STEP == 0 and head_size <= LARGEST_HEAD


def _by_xla(
    qkv_BTEH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    lengths_B: Array,
    first_row: Array | None,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    slopes_N: np.ndarray | None,
    rotary: tuple[Array, Array] | None,
    context: int | None,
) -> tuple[Array, Array, Array]:
    (B, T, E, H), (_, K, S, _) = qkv_BTEH.shape, keys_BKSH.shape
    N = E - 2 * K
    G, C = N // K, min(context or S, S)
    q_BTNH, k_BTKH, v_BTKH = jnp.split(qkv_BTEH, (N, N + K), axis=2)
    if rotary is not None:
        q_BTNH, k_BTKH = _turn(q_BTNH, *rotary), _turn(k_BTKH, *rotary)
    position_BT = lengths_B[:, None] + jnp.arange(T)
    row_B1 = (0 if first_row is None else first_row) + jnp.arange(B)[:, None]
    slot_BT = slots(position_BT, S, window)
    keys_BKSH, values_BKSH = (
        cache.at[row_B1, :, slot_BT].set(to_rows(new, cache.dtype), mode="drop")
        for cache, new in ((keys_BKSH, k_BTKH), (values_BKSH, v_BTKH))
    )

    def held(cache_BKSH: Array) -> Array:
        rows = cache_BKSH if first_row is None else jax.lax.dynamic_slice_in_dim(cache_BKSH, first_row, B)
        return from_rows(rows[:B, :, :C], jnp.float32)

    q_BKRH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H).astype(jnp.float32)
    score = jnp.einsum("BKRH,BKSH->BKRS", q_BKRH, held(keys_BKSH)) * scale
    score = score.reshape(B, K, G, T, C)
    if softcap is not None:
        score = softcap * jnp.tanh(score / softcap)
    distance_BTS = position_BT[:, :, None] - held_positions(position_BT, S, window, C)[:, None]
    if slopes_N is not None:
        score -= slopes_N.reshape(1, K, G, 1, 1) * jnp.abs(distance_BTS)[:, None, None].astype(jnp.float32)
    seen_BTS = distance_BTS >= 0
    if window is not None:
        seen_BTS &= distance_BTS < window
    weight = jax.nn.softmax(jnp.where(seen_BTS[:, None, None], score, -1e30), axis=-1).reshape(B, K, G * T, C)
    out = jnp.einsum("BKRS,BKSH->BKRH", weight, held(values_BKSH))
    out_BTNH = out.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
    return out_BTNH.astype(qkv_BTEH.dtype), keys_BKSH, values_BKSH


def _turn(x_BTEH: Array, cosine_BTh: Array, sine_BTh: Array) -> Array:
    half = cosine_BTh.shape[2]
    first, second, rest = x_BTEH[..., :half], x_BTEH[..., half : 2 * half], x_BTEH[..., 2 * half :]
    cos, sin = cosine_BTh[:, :, None], sine_BTh[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.astype(x_BTEH.dtype), rest], axis=-1)
