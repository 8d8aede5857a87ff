"""Weights as the kernels want them.

A native kernel reads tiles (see cpu/src/kernels.h): [O / 16, I bytes / 64, 16, 16, values per 4 bytes], zero where the
matrix ends inside a tile. XLA reads plain matrices: [I, O] in float32, [O, I] in bfloat16 and int8, whichever its dot
is faster on: at one row float32 reads 36 GB/s as [I, O] and 19 as [O, I], the others the other way round (measured on
2 cores with AVX-512; `python -m benchmarks.kernels` measures the product).
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
from jax import Array

from llm_jax.native import Level

WeightDtype = Literal["float32", "bfloat16", "int8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = ("float32", "bfloat16", "int8")  # numbered as in cpu/src/kernels.h


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedMatrix:
    """A linear map, ready for one level's product. Build it with `pack` or `pack_gated`.

    Attributes:
        tiles: the values, laid out for `level`.
        scale: float32, what each packed row of an int8 matrix is multiplied with.
        column_sum: int32, the sum of each packed row of an int8 matrix; AVX-512 wants it alone, which
            multiplies unsigned rows.
        dtype: of the values. int8 is symmetric with one scale per output.
        shape: (O, I) of the map, however it is packed. A gated map has O outputs and 2 O packed rows.
        gated: y = act(x Wᵀ) · (x Vᵀ), two matrices in one.
    """

    tiles: Array
    scale: Array | None
    column_sum: Array | None
    dtype: WeightDtype = field(metadata={"static": True})
    level: Level = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})
    gated: bool = field(default=False, metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """What one product reads."""
        return sum(array.nbytes for array in jax.tree.leaves(self))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FrozenMatrix:
    """A linear map that no step changes: packed, and its transpose packed, which gradients of its inputs are made with.

    Attributes:
        shape: (O, I) of the map.
    """

    packed: PackedMatrix
    transposed: PackedMatrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SummedMatrix:
    """A plain matrix, and the sum of its gradients so far: of `sum`, the gradient is the sum with another one.

    A gradient that is added up over many products takes no second array so.

    Attributes:
        weight_OI: has no gradient of its own.
        sum_OI: float32.
    """

    weight_OI: Array
    sum_OI: Array

    @property
    def shape(self) -> tuple[int, int]:
        O, I = self.weight_OI.shape
        return O, I
