"""Attention over the cache, with its update in place, by the native kernel."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.attention_inputs import AttentionSettings, ChunkLayout
from llm_jax.kernels.cpu.native import ATTENTION, EMPTY, load, placeholder
from llm_jax.native import Level
from llm_jax.programs import program

HEAD_STEP, LARGEST_HEAD = 16, 512  # head sizes of the native kernel: multiples, up to


def cached_attention(
    qkv_BTJH: Array,
    keys_ZKXH: Array,
    values_ZKXH: Array,
    blocks_RY: Array,
    layout: ChunkLayout,
    settings: AttentionSettings,
    *,
    first_block: int,
    rotary: tuple[Array, Array] | None,
    level: Level,
) -> tuple[Array, Array, Array]:
    """See `llm_jax.kernels.cached_attention`."""
    load()
    B, T, J, H = qkv_BTJH.shape
    N = J - 2 * keys_ZKXH.shape[1]
    call = jax.ffi.ffi_call(
        ATTENTION,
        (
            jax.ShapeDtypeStruct((B, T, N, H), qkv_BTJH.dtype),
            jax.ShapeDtypeStruct(keys_ZKXH.shape, keys_ZKXH.dtype),
            jax.ShapeDtypeStruct(values_ZKXH.shape, values_ZKXH.dtype),
        ),
        input_output_aliases={1: 1, 2: 2},
    )
    cosine, sine = (placeholder(), placeholder()) if rotary is None else rotary
    out_BTNH, keys_ZKXH, values_ZKXH = call(
        qkv_BTJH,
        keys_ZKXH,
        values_ZKXH,
        jnp.asarray(blocks_RY, jnp.int32),
        np.arange(B + 1, dtype=np.int32) * T if layout.starts is None else layout.starts,
        jnp.asarray(layout.cached_R, jnp.int32),
        jnp.asarray(layout.new_R, jnp.int32),
        placeholder() if settings.slopes_N is None else settings.slopes_N.astype(np.float32),
        cosine,
        sine,
        level=np.int64(level),
        first_block=np.int64(first_block),
        window=np.int64(settings.window or 0),
        scale=np.float32(settings.scale),
        softcap=np.float32(settings.softcap or 0.0),
    )
    return out_BTNH, keys_ZKXH, values_ZKXH


def empty(shape: tuple[int, ...], dtype: jnp.dtype | str) -> Array:
    """An array of any values, whose memory the system provides as it is first written."""
    load()
    array: Array = _empty.prepare(shape, jnp.dtype(dtype))()
    return array


@program(static=("shape", "dtype"))
def _empty(shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    array: Array = jax.ffi.ffi_call(EMPTY, jax.ShapeDtypeStruct(shape, dtype))()
    return array
