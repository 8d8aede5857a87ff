"""y = act(norm(x) · Wᵀ + bias) + residual over packed weights, by native kernels or by XLA."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.kernels.native import PRODUCT, Level, load, nothing
from llm_jax.kernels.packed import TILE, WEIGHT_DTYPES, PackedMatrix

ActivationName = Literal["none", "silu", "gelu_tanh", "gelu", "relu", "relu2", "tanh", "sigmoid"]
ACTIVATIONS: dict[ActivationName, Callable[[Array], Array]] = {  # in the order of src/kernels.h
    "none": lambda x: x,
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Norm:
    """What x goes through first, in float32: RMS norm, or layer norm where `centred`."""

    weight: Array
    bias: Array | None = None
    epsilon: float = field(default=1e-5, metadata={"static": True})
    centred: bool = field(default=False, metadata={"static": True})


def matmul(
    x: Array,
    packed: PackedMatrix,
    bias: Array | None = None,
    *,
    norm: Norm | None = None,
    activation: ActivationName = "none",
    residual: Array | None = None,
    out_dtype: jnp.dtype | str | None = None,
) -> Array:
    """act(norm(x) · Wᵀ + bias) + residual, over the last axis; sums are float32 (of int8 × int8: exact, in int32).

    A bfloat16 matrix rounds norm(x) to bfloat16, an int8 one to 255 levels per row on a CPU and to bfloat16 elsewhere.
    A row of native results does not depend, to the last bit, on the rows beside it or on their number; XLA promises
    nothing like it.

    Args:
        x: float32 or bfloat16 [..., K].
        bias: [N]; for a gated matrix the pair's biases [2, N].
        residual: [..., N], added last.
        out_dtype: float32 or bfloat16; x's own unless given.
    """
    N, K = packed.shape
    lead, out_dtype = x.shape[:-1], jnp.dtype(out_dtype or x.dtype)
    x_MK = x.reshape(-1, K)
    residual_MN = None if residual is None else residual.reshape(-1, N)
    product = _by_xla if packed.level == Level.XLA else _native
    return product(x_MK, packed, bias, norm, activation, residual_MN, out_dtype).reshape(*lead, N)


def _native(
    x_MK: Array,
    packed: PackedMatrix,
    bias: Array | None,
    norm: Norm | None,
    activation: ActivationName,
    residual_MN: Array | None,
    out_dtype: jnp.dtype,
) -> Array:
    load()
    M = x_MK.shape[0]
    chunks = packed.tiles.shape[1]
    if bias is not None:
        bias = jnp.pad(bias.astype(jnp.float32), [(0, 0)] * (bias.ndim - 1) + [(0, -packed.shape[0] % TILE)])
        if packed.gated:
            bias = bias.reshape(2, -1, TILE).swapaxes(0, 1).reshape(-1)
    rows = -(-M // TILE) * TILE
    # bfloat16 rows are kept in float32 by the levels that multiply in float32.
    row_bytes = chunks * (128 if packed.kind == "bfloat16" and packed.level != Level.AMX else 64)
    call = jax.ffi.ffi_call(
        PRODUCT,
        (
            jax.ShapeDtypeStruct((M, packed.shape[0]), out_dtype),
            jax.ShapeDtypeStruct((rows * (row_bytes + 4),), jnp.uint8),  # workspace: rows in tiles, their scales
        ),
    )
    y_MN, _ = call(
        x_MK,
        packed.tiles,
        nothing() if packed.scale is None else packed.scale,
        nothing(np.int32) if packed.column_sum is None else packed.column_sum,
        nothing() if bias is None else bias,
        nothing() if norm is None else norm.weight.astype(jnp.float32),
        nothing() if norm is None or norm.bias is None else norm.bias.astype(jnp.float32),
        nothing() if residual_MN is None else residual_MN,
        level=np.int64(packed.level),
        kind=np.int64(WEIGHT_DTYPES.index(packed.kind)),
        activation=np.int64(list(ACTIVATIONS).index(activation)),
        norm=np.int64(0 if norm is None else 2 if norm.centred else 1),
        gated=packed.gated,
        epsilon=np.float32(0.0 if norm is None else norm.epsilon),
    )
    return y_MN


def _by_xla(
    x_MK: Array,
    packed: PackedMatrix,
    bias: Array | None,
    norm: Norm | None,
    activation: ActivationName,
    residual_MN: Array | None,
    out_dtype: jnp.dtype,
) -> Array:
    x_MK = x_MK.astype(jnp.float32)
    if norm is not None:
        x_MK = normalise(x_MK, norm)
    M = x_MK.shape[0]
    if M == 1 and packed.kind != "float32":
        x_MK = jnp.concatenate([x_MK, x_MK])  # XLA's dots of one row run at a twentieth of the speed of two
    if packed.kind == "float32":
        y_MN = x_MK @ packed.tiles
    elif packed.kind == "bfloat16":
        y_MN = _contract(x_MK.astype(jnp.bfloat16), packed.tiles, jnp.float32)
    else:
        assert packed.scale is not None
        product = jax.lax.platform_dependent(x_MK, packed.tiles, cpu=_times_int8, default=_times_widened)
        y_MN = product * packed.scale
    y_MN = y_MN[:M]
    if bias is not None:
        y_MN = y_MN + bias.astype(jnp.float32).reshape(-1)
    if packed.gated:
        first, second = jnp.split(y_MN, 2, axis=-1)
        y_MN = ACTIVATIONS[activation](first) * second
    else:
        y_MN = ACTIVATIONS[activation](y_MN)
    if residual_MN is not None:
        y_MN = y_MN + residual_MN.astype(jnp.float32)
    return y_MN.astype(out_dtype)


def _times_int8(x_MK: Array, weight_NK: Array) -> Array:
    """The product with each row of x in 255 levels: what a CPU multiplies fastest."""
    amax_M1 = jnp.abs(x_MK).max(-1, keepdims=True)
    inverse_M1 = jnp.where(amax_M1 > 0, 127 / amax_M1, 0)
    sums_MN = _contract(jnp.round(x_MK * inverse_M1).astype(jnp.int8), weight_NK, jnp.int32)
    return sums_MN.astype(jnp.float32) * (amax_M1 / 127)


def _times_widened(x_MK: Array, weight_NK: Array) -> Array:
    """The product with x in bfloat16, which holds every int8: a GPU can widen weights as it reads them."""
    return _contract(x_MK.astype(jnp.bfloat16), weight_NK.astype(jnp.bfloat16), jnp.float32)


def _contract(x_MK: Array, weight_NK: Array, sums: type) -> Array:
    return jax.lax.dot_general(x_MK, weight_NK, (((1,), (1,)), ((), ())), preferred_element_type=sums)


def normalise(x: Array, norm: Norm) -> Array:
    """RMS norm (arXiv:1910.07467) or layer norm (arXiv:1607.06450) over the last axis of float32 x."""
    if norm.centred:
        x = x - x.mean(-1, keepdims=True)
    y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + norm.epsilon) * norm.weight
    return y if norm.bias is None else y + norm.bias
