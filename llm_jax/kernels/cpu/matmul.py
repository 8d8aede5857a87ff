"""Products with packed weights by the native kernels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.cpu.native import DENSE, PACK, PRODUCT, load, placeholder
from llm_jax.kernels.packed import WEIGHT_DTYPES, PackedMatrix, WeightDtype
from llm_jax.kernels.xla.functions import ACTIVATIONS, Norm
from llm_jax.native import Level

TILE = 16  # rows and columns of a tile, as in src/kernels.h
ROW_TILE_BYTES = 64  # of one row of x in a tile
SCALE_BYTES = 4  # of a row of x
LARGEST_DEPTH = 2048  # of the contracted axis of plain matrices that is multiplied in turn: 128 rows fit the L2 cache


def pack_tiles(weight_OI: Array, gate_OI: Array | None = None) -> Array:
    """The tiles of a matrix, or of a gated pair, whose panels come in turn. Call it inside jit."""
    (O, I), word = weight_OI.shape, 4 // weight_OI.dtype.itemsize
    matrices = [weight_OI] if gate_OI is None else [weight_OI, gate_OI]
    if I % word:
        matrices = [jnp.pad(x, ((0, 0), (0, -I % word))) for x in matrices]
    load()
    shape = (len(matrices) * -(-O // TILE), -(-I // (TILE * word)), TILE, TILE, word)
    call = jax.ffi.ffi_call(PACK, jax.ShapeDtypeStruct(shape, weight_OI.dtype))
    tiles: Array = call(matrices[0], placeholder(weight_OI.dtype) if gate_OI is None else matrices[1])
    return tiles


def unpacked_rows(packed: PackedMatrix, ids: Array) -> Array:
    """Rows of a packed matrix, float32 [..., I]."""
    values = packed.tiles[ids // TILE, :, :, ids % TILE]
    return values.reshape(*ids.shape, -1)[..., : packed.shape[1]].astype(jnp.float32)


def matmul(
    x_MI: Array,
    packed: PackedMatrix,
    bias: Array | None,
    norm: Norm | None,
    activation: str,
    residual_MO: Array | None,
    out_dtype: jnp.dtype,
) -> Array:
    """See `llm_jax.kernels.matmul`."""
    load()
    M, O = x_MI.shape[0], packed.shape[0]
    chunks = packed.tiles.shape[1]
    if bias is not None:
        bias = jnp.pad(bias.astype(jnp.float32), [(0, 0)] * (bias.ndim - 1) + [(0, -O % TILE)])
        if packed.gated:
            bias = bias.reshape(2, -1, TILE).swapaxes(0, 1).reshape(-1)
    row_bytes = _row_bytes(chunks, packed.dtype, packed.level)
    workspace_bytes = -(-M // TILE) * TILE * (row_bytes + SCALE_BYTES)  # rows of x in tiles, and their scales
    call = jax.ffi.ffi_call(
        PRODUCT,
        (jax.ShapeDtypeStruct((M, O), out_dtype), jax.ShapeDtypeStruct((workspace_bytes,), jnp.uint8)),
    )
    y_MO, _ = call(
        x_MI,
        packed.tiles,
        placeholder() if packed.scale is None else packed.scale,
        placeholder(np.int32) if packed.column_sum is None else packed.column_sum,
        placeholder() if bias is None else bias,
        placeholder() if norm is None else norm.weight.astype(jnp.float32),
        placeholder() if norm is None or norm.bias is None else norm.bias.astype(jnp.float32),
        placeholder() if residual_MO is None else residual_MO,
        level=np.int64(packed.level),
        dtype=np.int64(WEIGHT_DTYPES.index(packed.dtype)),
        activation=np.int64(list(ACTIVATIONS).index(activation)),
        norm=np.int64(0 if norm is None else 2 if norm.centred else 1),
        gated=packed.gated,
        epsilon=np.float32(0.0 if norm is None else norm.epsilon),
    )
    return y_MO


def dense(
    left: Array,
    right: Array,
    *,
    by_columns: tuple[bool, bool],
    dtype: WeightDtype,
    out_dtype: jnp.dtype,
    level: Level,
    add_to: Array | None = None,
) -> Array:
    """A Bᵀ [M, N] of plain matrices A [M, K] and B [N, K], in float32 or bfloat16; sums are float32.

    Args:
        by_columns: whether A, and whether B, is given transposed: [K, M], [K, N].
        dtype: what both are multiplied in, float32 or bfloat16.
        add_to: float32 [M, N], to which the product is added, in place; `out_dtype` is then float32.
    """
    load()
    (K, M), N = left.shape[:: 1 if by_columns[0] else -1], right.shape[1 if by_columns[1] else 0]
    depth = -(-K // -(-K // LARGEST_DEPTH))
    chunks = -(-depth * jnp.dtype(dtype).itemsize // ROW_TILE_BYTES)
    row_bytes = _row_bytes(chunks, dtype, level) if M <= N else chunks * ROW_TILE_BYTES
    workspace = jax.ShapeDtypeStruct((-(-min(M, N) // TILE) * TILE * row_bytes,), jnp.uint8)
    sums = jax.ShapeDtypeStruct((M, N) if depth < K and out_dtype != jnp.float32 else (0,), jnp.float32)
    outputs = jax.ShapeDtypeStruct((M, N), out_dtype), workspace, sums
    aliases = None if add_to is None else {2: 0}
    call = jax.ffi.ffi_call(DENSE, outputs, vmap_method="sequential", input_output_aliases=aliases)
    product_MN, _, _ = call(
        left,
        right,
        placeholder() if add_to is None else add_to,
        level=np.int64(level),
        dtype=np.int64(WEIGHT_DTYPES.index(dtype)),
        depth=np.int64(depth),
        chunk_bytes=np.int64(_row_bytes(1, dtype, level)),
        left_by_columns=by_columns[0],
        right_by_columns=by_columns[1],
    )
    return product_MN


def _row_bytes(chunks: int, dtype: WeightDtype, level: Level) -> int:
    """Of a row of x in tiles: widened for the levels that multiply bfloat16 in float32, and int8 in int16."""
    float_rows = dtype == "bfloat16" and level in (Level.AVX2, Level.AVX512)
    int16_rows = dtype == "int8" and level == Level.AVX2
    return chunks * ROW_TILE_BYTES * (2 if float_rows or int16_rows else 1)
