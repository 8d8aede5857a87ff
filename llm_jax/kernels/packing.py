"""Packs weights, once, when a model is loaded."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.errors import ConfigError
from llm_jax.kernels import cpu, xla
from llm_jax.kernels.blocks import FORMATS, BlockMatrix, BlockRows, Format
from llm_jax.kernels.packed import FrozenMatrix, PackedMatrix, WeightDtype
from llm_jax.native import Level
from llm_jax.programs import program

HUGE_PAGE = 1 << 21  # bytes


def pack(weight_OI: Array, dtype: WeightDtype, *, level: Level | None = None) -> PackedMatrix:
    """Packs a matrix in torch's layout [out, in].

    Args:
        dtype: what the values are stored in. int8 is symmetric with one scale per output.
        level: which kernels will read it; the best of this machine unless given.
    """
    return _packed(weight_OI, None, dtype, level)


def pack_gated(weight_OI: Array, gate_OI: Array, dtype: WeightDtype, *, level: Level | None = None) -> PackedMatrix:
    """Packs the two matrices of a gated linear unit (arXiv:2002.05202): y = act(x Wᵀ) · (x Vᵀ), W first."""
    return _packed(weight_OI, gate_OI, dtype, level)


def pack_frozen(weight_OI: Array, dtype: WeightDtype) -> FrozenMatrix:
    """Packs a matrix that products in training read and do not change."""
    return FrozenMatrix(pack(weight_OI, dtype), pack(jnp.asarray(weight_OI).T, dtype))


def pack_blocks(
    parts: Sequence[BlockRows], *, inputs: int | None = None, gated: bool = False, level: Level | None = None
) -> BlockMatrix:
    """Packs the parts of one matrix, or the two of a gated pair.

    Args:
        parts: but for the last, of a multiple of PANEL rows each.
        inputs: of the map, where its rows are padded to whole blocks.
        level: which kernels will read it; the best of this machine unless given.

    Raises:
        ConfigError: the native library, which packs, is not there.
    """
    _require_library()
    best = cpu.best_level()
    level = best if level is None else level
    formats, outputs = tuple(part.format for part in parts), tuple(len(part.rows) for part in parts)
    I = parts[0].rows.shape[1] // FORMATS[formats[0]].bytes * FORMATS[formats[0]].values
    numbers = [list(FORMATS).index(format) for format in formats]
    sizes = [xla.block_bytes(format, count, I) for format, count in zip(formats, outputs, strict=True)]
    tiles, at = cpu.aligned(sum(sizes)), 0
    for part, number, size in zip(parts, numbers, sizes, strict=True):
        cpu.pack_blocks(number, np.ascontiguousarray(part.rows), I, tiles[at : at + size])
        _release(part.rows)
        at += size
    O = outputs[0] if gated else sum(outputs)
    return BlockMatrix(on_device(tiles), formats, outputs, level, (O, inputs or I), gated)


def join(matrices: Mapping[str, BlockMatrix]) -> dict[str, BlockMatrix]:
    """The same, with those for native kernels that fill no huge page in one array: a call takes as long as it is given
    arrays, and small pages are read more slowly.
    """
    native = [matrix for matrix in matrices.values() if matrix.level != Level.XLA]
    small = {id(matrix.tiles): matrix.tiles for matrix in native if matrix.tiles.size < HUGE_PAGE}
    if not small:
        return dict(matrices)
    *starts, size = accumulate((tiles.size for tiles in small.values()), initial=0)
    memory = cpu.aligned(size, huge_pages=True)
    for start, tiles in zip(starts, small.values(), strict=True):
        memory[start : start + tiles.size] = np.asarray(tiles)
    joined, start_of = on_device(memory), dict(zip(small, starts, strict=True))

    def moved(matrix: BlockMatrix) -> BlockMatrix:
        start = start_of.get(id(matrix.tiles))
        return matrix if start is None else replace(matrix, tiles=joined, start=start + matrix.start)

    return {name: moved(matrix) for name, matrix in matrices.items()}


def quantise(weight_OI: Array | np.ndarray, format: Format, importance_I: np.ndarray | None = None) -> BlockRows:
    """The rows of a matrix in blocks of Q4_0, Q4_1, Q5_0, Q8_0, Q4_K or Q6_K; padded with zeros to whole ones.

    Args:
        importance_I: what the squared error of each input's weights counts; the larger ones' count more unless given.

    Raises:
        ConfigError: the native library, which quantises, is not there.
    """
    _require_library()
    layout = FORMATS[format]
    padding = [(0, -weight_OI.shape[1] % layout.values)]
    whole = np.pad(np.asarray(weight_OI, np.float32), [(0, 0), *padding])
    if importance_I is not None:
        importance_I = np.pad(importance_I, padding)
    return BlockRows(format, cpu.quantise(list(FORMATS).index(format), whole, *layout, importance_I))


def on_device(tiles: np.ndarray) -> Array:
    """The array that packed tiles are, on a CPU in the same memory."""
    # By DLPack it would be too, but then a thread of XLA's that lets go of it last waits for the interpreter's lock,
    # and aborts the process if the interpreter ends meanwhile.
    return jax.device_put(tiles, may_alias=True)


def _require_library() -> None:
    if not cpu.is_built():
        raise ConfigError("Weights in blocks of 4 to 8 bits need the native library; choose another dtype.")


def _release(rows: np.ndarray) -> None:
    """Lets the system take back the memory of a mapped file that was read."""
    base: Any = rows
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _packed(weight_OI: Array, gate_OI: Array | None, dtype: WeightDtype, level: Level | None) -> PackedMatrix:
    best = cpu.best_level()  # registers the native call too, before a program with it is loaded
    level = best if level is None else level
    O, I = weight_OI.shape
    tiles, scale, column_sum = _lay_out.prepare(weight_OI, gate_OI, dtype, level)(weight_OI, gate_OI)
    return PackedMatrix(tiles, scale, column_sum, dtype, level, (O, I), gate_OI is not None)


@program(static=("dtype", "level"))
def _lay_out(
    weight_OI: Array, gate_OI: Array | None, dtype: WeightDtype, level: Level
) -> tuple[Array, Array | None, Array | None]:
    """Tiles, scales and column sums, the latter two in the order of the packed rows."""
    matrices = [weight_OI] if gate_OI is None else [weight_OI, gate_OI]
    scale = column_sum = None
    if dtype == "int8":
        values, scales = zip(*map(_quantise, matrices), strict=True)
        scale = _in_order(scales, level)
        if level in (Level.AVX512, Level.AVX512_BF16):
            column_sum = _in_order([x.astype(jnp.int32).sum(-1) for x in values], level)
        matrices = list(values)
    matrices = [x.astype(dtype) for x in matrices]
    if level == Level.XLA:
        rows_OI = jnp.concatenate(matrices)
        return (rows_OI.T if dtype == "float32" else rows_OI), scale, column_sum
    return cpu.pack_tiles(*matrices), scale, column_sum


def _quantise(weight_OI: Array) -> tuple[Array, Array]:
    """int8 values and float32 scales [O]: weight ≈ values · scale, within half a scale."""
    weight_OI = weight_OI.astype(jnp.float32)
    scale_O = jnp.abs(weight_OI).max(-1) / 127
    inverse_O = jnp.where(scale_O > 0, 1 / scale_O, 0)
    return jnp.round(weight_OI * inverse_O[:, None]).astype(jnp.int8), scale_O


def _in_order(vectors: Sequence[Array], level: Level) -> Array:
    """What belongs to each packed row: natively the panels of a pair in turn, so that one call has both sums."""
    if level == Level.XLA:
        return jnp.concatenate(vectors)
    panels = [jnp.pad(x, (0, -x.shape[0] % cpu.TILE)).reshape(-1, cpu.TILE) for x in vectors]
    return jnp.stack(panels, axis=1).reshape(-1)
