"""Matrices in blocks by the native library: packing, and products."""

import ctypes
import os
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cpu.matmul import TILE
from llm_jax.kernels.cpu.native import BLOCK_PRODUCT, load, placeholder
from llm_jax.kernels.xla.functions import ACTIVATIONS, Norm

if TYPE_CHECKING:
    from llm_jax.kernels.blocks import BlockMatrix

GROUP = 32  # inputs that share a scale of x, as in src/blocks.h
ROW_GROUP_BYTES = TILE * (GROUP + 16)  # of 16 rows
ALIGNMENT = 64  # of what XLA takes without a copy


def pack_blocks(format: int, rows: np.ndarray, inputs: int, tiles: np.ndarray) -> None:
    """Packs rows, uint8 [O, bytes], on all cores."""
    function = _library().llm_pack_blocks
    function.argtypes = [
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
    ]
    function(format, rows.ctypes.data, len(rows), inputs, tiles.ctypes.data, len(os.sched_getaffinity(0)))


def quantise(format: int, weight_OI: np.ndarray, values: int, size: int, importance_I: np.ndarray | None) -> np.ndarray:
    """Rows, float32 of whole blocks of so many values, in blocks of `size` bytes: uint8 [O, bytes]."""
    function = _library().llm_quantise
    function.argtypes = [
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
    ]
    function.restype = ctypes.c_bool
    weight_OI = np.ascontiguousarray(weight_OI, np.float32)
    (O, I), importance = weight_OI.shape, None
    if importance_I is not None:
        importance_I = np.ascontiguousarray(importance_I, np.float32)
        importance = importance_I.ctypes.data
    blocks = np.empty((O, I // values * size), np.uint8)
    threads = len(os.sched_getaffinity(0))
    if not function(format, weight_OI.ctypes.data, O, I, importance, blocks.ctypes.data, threads):
        raise ValueError(f"Format {format} is only read.")
    return blocks


def aligned(size: int, *, huge_pages: bool = False) -> np.ndarray:
    """Uninitialised uint8 [size] that XLA takes without a copy."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    if huge_pages:
        function = _library().llm_huge_pages
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        function(memory.ctypes.data, memory.size)
    return memory[start : start + size]


def block_matmul(
    x_MI: Array,
    matrix: "BlockMatrix",
    formats: tuple[int, ...],
    bias: Array | None,
    norm: Norm | None,
    activation: str,
    residual_MO: Array | None,
    out_dtype: jnp.dtype,
) -> Array:
    """See `llm_jax.kernels.matmul`."""
    load()
    M, (O, I) = x_MI.shape[0], matrix.shape
    if bias is not None:
        bias = jnp.pad(bias.astype(jnp.float32), [(0, 0)] * (bias.ndim - 1) + [(0, -O % TILE)])
        if matrix.gated:
            bias = bias.reshape(2, -1, TILE).swapaxes(0, 1).reshape(-1)
    workspace_bytes = -(-M // TILE) * -(-I // GROUP) * ROW_GROUP_BYTES
    call = jax.ffi.ffi_call(
        BLOCK_PRODUCT,
        (jax.ShapeDtypeStruct((M, O), out_dtype), jax.ShapeDtypeStruct((workspace_bytes,), jnp.uint8)),
    )
    y_MO, _ = call(
        x_MI,
        matrix.tiles,
        placeholder() if bias is None else bias,
        placeholder() if norm is None else norm.weight.astype(jnp.float32),
        placeholder() if norm is None or norm.bias is None else norm.bias.astype(jnp.float32),
        placeholder() if residual_MO is None else residual_MO,
        level=np.int64(matrix.level),
        start=np.int64(matrix.start),
        formats=np.array(formats, np.int64),
        outputs=np.array(matrix.outputs, np.int64),
        activation=np.int64(list(ACTIVATIONS).index(activation)),
        norm=np.int64(0 if norm is None else 2 if norm.centred else 1),
        gated=matrix.gated,
        epsilon=np.float32(0.0 if norm is None else norm.epsilon),
    )
    return y_MO


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library
