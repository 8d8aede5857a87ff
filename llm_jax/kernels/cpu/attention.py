"""Attention over the cache, with its update in place, by the native kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cpu.native import ATTENTION, load, placeholder
from llm_jax.native import Level

HEAD_STEP, LARGEST_HEAD = 16, 512  # head sizes of the native kernel: multiples, up to


def cached_attention(
    qkv_BTJH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    layout: ChunkLayout,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None,
    level: Level,
) -> tuple[Array, Array, Array]:
    """See `llm_jax.kernels.cached_attention`."""
    load()
    B, T, J, H = qkv_BTJH.shape
    N = J - 2 * keys_BKSH.shape[1]
    call = jax.ffi.ffi_call(
        ATTENTION,
        (
            jax.ShapeDtypeStruct((B, T, N, H), qkv_BTJH.dtype),
            jax.ShapeDtypeStruct(keys_BKSH.shape, keys_BKSH.dtype),
            jax.ShapeDtypeStruct(values_BKSH.shape, values_BKSH.dtype),
        ),
        input_output_aliases={1: 1, 2: 2},
    )
    cosine, sine = (placeholder(), placeholder()) if rotary is None else rotary
    out_BTNH, keys_BKSH, values_BKSH = call(
        qkv_BTJH,
        keys_BKSH,
        values_BKSH,
        np.arange(B + 1, dtype=np.int32) * T if layout.starts is None else layout.starts,
        jnp.asarray(layout.cached_R, jnp.int32),
        jnp.asarray(layout.new_R, jnp.int32),
        np.int32(0) if layout.first_slot is None else layout.first_slot,
        placeholder() if settings.slopes_N is None else settings.slopes_N.astype(np.float32),
        cosine,
        sine,
        level=np.int64(level),
        window=np.int64(settings.window or 0),
        scale=np.float32(settings.scale),
        softcap=np.float32(settings.softcap or 0.0),
    )
    return out_BTNH, keys_BKSH, values_BKSH
