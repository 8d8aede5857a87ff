"""y = act(norm(x) · Wᵀ + bias) + residual, on the backend that the weights are packed for."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu, xla
from llm_jax.kernels.blocks import FORMATS, BlockMatrix, Format
from llm_jax.kernels.packed import FrozenMatrix, PackedMatrix, SummedMatrix, WeightDtype
from llm_jax.kernels.xla import ActivationName, Norm
from llm_jax.native import Level

# Where native products of plain matrices beat XLA's by more than their layout costs: from how many bytes of the product
# on, and at which levels. XLA's float32 products are as fast, but a large one faults in its memory by small pages, and
# is transposed for the gradient of the matrix.
NATIVE_LINEAR = {
    "bfloat16": (0, (Level.AVX2, Level.AVX512, Level.AVX512_BF16, Level.AMX)),
    "float32": (1 << 25, (Level.AVX512, Level.AVX512_BF16, Level.AMX)),
}


def matmul(
    x: Array,
    packed: PackedMatrix | BlockMatrix,
    bias: Array | None = None,
    *,
    norm: Norm | None = None,
    activation: ActivationName = "none",
    residual: Array | None = None,
    out_dtype: jnp.dtype | str | None = None,
) -> Array:
    """act(norm(x) · Wᵀ + bias) + residual, over the last axis; sums are float32 (of int8 × int8: exact, in int32).

    A bfloat16 matrix rounds norm(x) to bfloat16, an int8 one to 255 levels per row on a CPU and to bfloat16 elsewhere,
    one in blocks natively to 255 levels for each 32 inputs.
    A row of native results does not depend, to the last bit, on the rows beside it or on their number; XLA promises
    nothing like it.

    Args:
        x: float32 or bfloat16 [..., I].
        bias: [O]; for a gated matrix the pair's biases [2, O].
        residual: [..., O], added last.
        out_dtype: float32 or bfloat16; x's own unless given.
    """
    O, I = packed.shape
    lead, out_dtype = x.shape[:-1], jnp.dtype(out_dtype or x.dtype)
    residual_MO = None if residual is None else residual.reshape(-1, O)
    if isinstance(packed, BlockMatrix) and packed.level != Level.XLA:
        formats = tuple(list(FORMATS).index(format) for format in packed.formats)
        x_MI = x.reshape(-1, I)
        y_MO = cpu.block_matmul(x_MI, packed, formats, bias, norm, activation, residual_MO, out_dtype)
        return y_MO.reshape(*lead, O)
    if isinstance(packed, BlockMatrix):
        values_IO = values(packed).T
        packed = PackedMatrix(values_IO, None, None, "float32", Level.XLA, packed.shape, packed.gated)
    backend = xla.matmul if packed.level == Level.XLA else cpu.matmul
    return backend(x.reshape(-1, I), packed, bias, norm, activation, residual_MO, out_dtype).reshape(*lead, O)


def linear(x: Array, weight_OI: Array) -> Array:
    """x · Wᵀ over the last axis with a plain matrix, in x's dtype; differentiable by both.

    In bfloat16 on one x86-64 processor natively, forward and backward: XLA multiplies bfloat16 at the rate of float32
    there, or slower. The gradient of a float32 matrix is then not rounded to bfloat16. In float32 with AVX-512 where
    the product is large.
    """
    nbytes = x.nbytes // x.shape[-1] * weight_OI.shape[0]
    if has_native_linear(x.dtype, nbytes) and weight_OI.dtype in (jnp.float32, jnp.bfloat16):
        y_MO = _native_linear(x.reshape(-1, x.shape[-1]), weight_OI)
        return y_MO.reshape(*x.shape[:-1], weight_OI.shape[0])
    return jnp.einsum("...i,oi->...o", x, weight_OI.astype(x.dtype))


def has_native_linear(dtype: jnp.dtype, nbytes: int = 0) -> bool:
    """Whether `linear` in that dtype, for a product of at least so many bytes, runs natively and rounds its matrix
    itself. XLA does not divide a native call among devices."""
    least, levels = NATIVE_LINEAR.get(jnp.dtype(dtype).name, (0, ()))
    return jax.device_count() == 1 and nbytes >= least and cpu.best_level() in levels


@jax.custom_vjp
def _native_linear(x_MI: Array, weight_OI: Array) -> Array:
    return _dense(x_MI, weight_OI, (False, False), x_MI.dtype)


def _linear_forward(x_MI: Array, weight_OI: Array) -> tuple[Array, tuple[Array, Array]]:
    return _native_linear(x_MI, weight_OI), (x_MI, weight_OI)


def _linear_backward(saved: tuple[Array, Array], of_y_MO: Array) -> tuple[Array, Array]:
    x_MI, weight_OI = saved
    of_x_MI = _dense(of_y_MO, weight_OI, (False, True), x_MI.dtype)
    return of_x_MI, _dense(of_y_MO, x_MI, (True, True), weight_OI.dtype)


_native_linear.defvjp(_linear_forward, _linear_backward)


def _dense(
    left: Array, right: Array, by_columns: tuple[bool, bool], out_dtype: jnp.dtype, add_to: Array | None = None
) -> Array:
    dtype: WeightDtype = "float32" if left.dtype == jnp.float32 else "bfloat16"
    level = cpu.best_level()
    return cpu.dense(left, right, by_columns=by_columns, dtype=dtype, out_dtype=out_dtype, level=level, add_to=add_to)


@jax.custom_vjp
def summed_matmul(x: Array, matrix: SummedMatrix) -> Array:
    """x · Wᵀ over the last axis, in x's dtype; see `SummedMatrix` for its gradient."""
    return linear(x, matrix.weight_OI)


def _summed_forward(x: Array, matrix: SummedMatrix) -> tuple[Array, tuple[Array, SummedMatrix]]:
    return linear(x, matrix.weight_OI), (x, matrix)


def _summed_backward(saved: tuple[Array, SummedMatrix], of_y: Array) -> tuple[Array, SummedMatrix]:
    x, matrix = saved
    (O, I), weight_OI = matrix.shape, matrix.weight_OI
    x_MI, of_y_MO = x.reshape(-1, I), of_y.reshape(-1, O)
    if has_native_linear(x.dtype):
        of_x_MI = _dense(of_y_MO, weight_OI, (False, True), x.dtype)
    else:
        of_x_MI = of_y_MO @ weight_OI.astype(x.dtype)
    # XLA's product in float32 is as fast, but first transposes the gradient of y, and is added in a pass of its own.
    if has_native_linear(x.dtype) or (x.dtype == jnp.float32 and has_native_linear(jnp.dtype(jnp.bfloat16))):
        sum_OI = _dense(of_y_MO, x_MI, (True, True), jnp.dtype(jnp.float32), matrix.sum_OI)
    else:
        sum_OI = matrix.sum_OI + jnp.einsum("mo,mi->oi", of_y_MO, x_MI, preferred_element_type=jnp.float32)
    return of_x_MI.reshape(x.shape), SummedMatrix(jnp.zeros_like(weight_OI), sum_OI)


summed_matmul.defvjp(_summed_forward, _summed_backward)


@jax.custom_vjp
def frozen_matmul(x: Array, matrix: FrozenMatrix) -> Array:
    """x · Wᵀ over the last axis, with a gradient for x alone, which is made of products with packed weights too."""
    return matmul(x, matrix.packed)


def _frozen_forward(x: Array, matrix: FrozenMatrix) -> tuple[Array, FrozenMatrix]:
    return matmul(x, matrix.packed), matrix


def _frozen_backward(matrix: FrozenMatrix, dy: Array) -> tuple[Array, None]:
    return matmul(dy, matrix.transposed), None


frozen_matmul.defvjp(_frozen_forward, _frozen_backward)


def values(matrix: BlockMatrix) -> Array:
    """The values of all packed rows, float32 [O, I]; of a gated pair [2 O, I]."""
    parts = [xla.decode(tiles, format, O, matrix.shape[1]) for tiles, format, O in _parts(matrix)]
    return jnp.concatenate(parts)


def rows(matrix: BlockMatrix | FrozenMatrix, ids: Array) -> Array:
    """Rows of a matrix, of one in blocks in one part, float32 [..., I]: what an embedding looks up."""
    if isinstance(matrix, FrozenMatrix):
        return cpu.unpacked_rows(matrix.packed, ids)
    ((tiles, format, O),) = _parts(matrix)
    return xla.decode_rows(tiles, format, O, matrix.shape[1], ids)


def _parts(matrix: BlockMatrix) -> Iterator[tuple[Array, Format, int]]:
    """Tiles, format and number of outputs of each part."""
    at, I = matrix.start, matrix.shape[1]
    for format, O in zip(matrix.formats, matrix.outputs, strict=True):
        size = xla.block_bytes(format, O, I)
        yield matrix.tiles[at : at + size], format, O
        at += size
