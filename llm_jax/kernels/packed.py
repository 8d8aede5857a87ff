"""Weights as the kernels want them: packed once, when a model is loaded.

A native kernel reads tiles (see src/kernels.h): [N / 16, K bytes / 64, 16, 16, values per 4 bytes], zero where the
matrix ends inside a tile. XLA reads plain matrices: [K, N] in float32, [N, K] in bfloat16 and int8, whichever its
dot is faster on (PERFORMANCE figures: 36 against 19 GB/s in float32 at one row, the other way round for the others).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.native import PACK, Level, best_level, load, nothing, use_huge_pages

WeightDtype = Literal["float32", "bfloat16", "int8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = ("float32", "bfloat16", "int8")  # numbered as in src/kernels.h
TILE = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedMatrix:
    """A linear map, ready for one level's product. Build it with `pack` or `pack_gated`.

    Attributes:
        tiles: the values, laid out for `level`.
        scale: float32, what each packed row of an int8 matrix is multiplied with.
        column_sum: int32, the sum of each packed row of an int8 matrix; AVX-512 wants it alone, which multiplies
            unsigned rows.
        shape: (N, K) of the map, whatever is packed. A gated map has N outputs and 2 N packed rows.
        gated: y = act(x Wᵀ) · (x Vᵀ), two matrices in one.
    """

    tiles: Array
    scale: Array | None
    column_sum: Array | None
    kind: WeightDtype = field(metadata={"static": True})
    level: Level = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})
    gated: bool = field(default=False, metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """What one product reads."""
        return sum(array.nbytes for array in jax.tree.leaves(self))


def pack(weight_NK: Array, kind: WeightDtype, *, level: Level | None = None) -> PackedMatrix:
    """Packs a matrix in torch's layout [out, in].

    Args:
        kind: what the values are kept in. int8 is symmetric with one scale per output row.
        level: which kernels will read it; the best of this machine unless given.
    """
    return _packed(weight_NK, None, kind, level)


def pack_gated(weight_NK: Array, gate_NK: Array, kind: WeightDtype, *, level: Level | None = None) -> PackedMatrix:
    """Packs the two matrices of a gated linear unit (arXiv:2002.05202): y = act(x Wᵀ) · (x Vᵀ), W first."""
    return _packed(weight_NK, gate_NK, kind, level)


def quantise(weight_NK: Array) -> tuple[Array, Array]:
    """int8 values and float32 scales [N]: weight ≈ values · scale, within half a scale."""
    weight_NK = weight_NK.astype(jnp.float32)
    scale_N = jnp.abs(weight_NK).max(-1) / 127
    inverse_N = jnp.where(scale_N > 0, 1 / scale_N, 0)
    return jnp.round(weight_NK * inverse_N[:, None]).astype(jnp.int8), scale_N


def _packed(weight_NK: Array, gate_NK: Array | None, kind: WeightDtype, level: Level | None) -> PackedMatrix:
    level = best_level() if level is None else level
    N, K = weight_NK.shape
    tiles, scale, column_sum = _lay_out(jnp.asarray(weight_NK), gate_NK, kind, level)
    use_huge_pages(tiles)
    return PackedMatrix(tiles, scale, column_sum, kind, level, (N, K), gate_NK is not None)


@partial(jax.jit, static_argnames=("kind", "level"))
def _lay_out(
    weight_NK: Array, gate_NK: Array | None, kind: WeightDtype, level: Level
) -> tuple[Array, Array | None, Array | None]:
    """Tiles, scales and column sums, the latter two in the order of the packed rows."""
    matrices = [weight_NK] if gate_NK is None else [weight_NK, gate_NK]
    scale = column_sum = None
    if kind == "int8":
        values, scales = zip(*map(quantise, matrices), strict=True)
        scale = _in_order(scales, level)
        if level == Level.AVX512:
            column_sum = _in_order([x.astype(jnp.int32).sum(-1) for x in values], level)
        matrices = list(values)
    matrices = [x.astype(kind) for x in matrices]
    if level == Level.XLA:
        rows_RK = jnp.concatenate(matrices)
        return (rows_RK.T if kind == "float32" else rows_RK), scale, column_sum

    (N, K), word = weight_NK.shape, 4 // matrices[0].dtype.itemsize
    if K % word:
        matrices = [jnp.pad(x, ((0, 0), (0, -K % word))) for x in matrices]
    load()
    shape = (len(matrices) * -(-N // TILE), -(-K // (TILE * word)), TILE, TILE, word)
    call = jax.ffi.ffi_call(PACK, jax.ShapeDtypeStruct(shape, matrices[0].dtype))
    return call(matrices[0], nothing(matrices[0].dtype) if gate_NK is None else matrices[1]), scale, column_sum


def _in_order(vectors: Sequence[Array], level: Level) -> Array:
    """What belongs to each packed row: natively the panels of a pair in turn, so that one call holds both sums."""
    if level == Level.XLA:
        return jnp.concatenate(vectors)
    panels = [jnp.pad(x, (0, -x.shape[0] % TILE)).reshape(-1, TILE) for x in vectors]
    return jnp.stack(panels, axis=1).reshape(-1)
