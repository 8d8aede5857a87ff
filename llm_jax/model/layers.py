"""The plain parts of a decoder: linear maps, embeddings, norms, dropout, the feed-forward block.

Weights have the layout of torch and safetensors ([out, in] for a linear map), so that files and torch modules
map onto them without a copy. Every layer computes in the dtype of its input.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import (
    ACTIVATIONS,
    ActivationName,
    BlockMatrix,
    FrozenMatrix,
    Level,
    Norm,
    PackedMatrix,
    SummedMatrix,
    add_low_rank,
    bernoulli,
    dropout,
    frozen_matmul,
    linear,
    low_rank,
    matmul,
    normalise,
    rows,
    summed_matmul,
)
from llm_jax.model.remat import recomputed
from llm_jax.parallel import whole_rows


def parameter(*shape: int) -> nnx.Param[Array]:
    """A place for an array of this shape: `merge` puts it there, `init_params` makes it."""
    return nnx.Param(jnp.zeros(shape))


Inputs = Any  # an array, or several that a `Prepare` makes one of
Prepare = Callable[[Inputs], Array]


class Linear(nnx.Module):
    """y = act(norm(x) Wᵀ + b) + residual, with W [out, in], or packed for kernels that do it all in one call."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool) -> None:
        self.weight = parameter(size_out, size_in)
        self.bias = parameter(size_out) if bias else None
        self.lora: LowRankFactors | None = nnx.data(None)  # beside it, where the parameters have one
        self.observe: Callable[[Array], None] | None = None  # called with what the matrix is multiplied with

    @property
    def packed(self) -> PackedMatrix | BlockMatrix | None:
        weight = self.weight.get_value()
        return weight if isinstance(weight, PackedMatrix | BlockMatrix) else None

    def __call__(
        self,
        x: Inputs,
        *,
        norm: "AnyNorm | None" = None,
        prepare: Prepare | None = None,
        activation: ActivationName = "none",
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """[..., in] -> [..., out]. `bias` stands in for the map's own (a packed gated pair has two).

        Args:
            prepare: what x is made of, before the norm; closes over no array.
        """
        if bias is None and self.bias is not None:
            bias = self.bias[...]
        if not self.is_plain and prepare is not None:
            x, prepare = recomputed(prepare, x), None
        if self.packed is not None and self.lora is None:
            parameters = None if norm is None else norm.parameters
            return matmul(x, self.packed, bias, norm=parameters, activation=activation, residual=residual)
        if self.packed is not None and self.lora is not None and self.lora.is_stacked:
            parameters = None if norm is None else norm.parameters
            is_last = activation == "none"  # before it, what is added goes into the product's own residual
            beside = residual if is_last else None
            change = self.lora.of_rows(x, norm=parameters, residual=beside, level=self.packed.level)
            y = matmul(x, self.packed, bias, norm=parameters, residual=change)
            if is_last:
                return y
            y = ACTIVATIONS[activation](y)
            return y if residual is None else residual + y
        if self.is_plain:
            (y,) = products([self], x, norm, prepare)
        else:
            x = normalised(x, norm)
            if self.observe is not None:
                self.observe(x)
            y = self.product(x)
        if self.lora is not None:
            y = self.lora(x, y)
        if bias is not None:
            y = y + bias.astype(y.dtype)
        y = ACTIVATIONS[activation](y)
        return y if residual is None else residual + y

    @property
    def is_plain(self) -> bool:
        """Whether it is a matrix of its own, with nothing beside it."""
        return isinstance(self.weight.get_value(), Array) and self.lora is None and self.observe is None

    def product(self, x: Array) -> Array:
        """x Wᵀ. Of a matrix in blocks, gradients need its values once more, which are not stored until then."""
        weight = self.weight.get_value()
        if isinstance(weight, FrozenMatrix):
            return frozen_matmul(x, weight)
        if isinstance(weight, SummedMatrix):
            return summed_matmul(x, weight)
        if isinstance(self.packed, BlockMatrix):
            return jax.checkpoint(matmul)(x, self.packed)
        if self.packed is not None:
            return matmul(x, self.packed)
        return linear(x, self.weight[...])

    def add_to(
        self,
        residual: Array,
        x: Inputs,
        end: "SublayerEnd",
        dropout_key: Array | None,
        prepare: Prepare | None = None,
    ) -> Array:
        """The end of a sublayer: x Wᵀ + b, added to the residual stream."""
        if end.adds_as_is and dropout_key is None:
            return self(x, prepare=prepare, residual=residual)
        return end(residual, self(x, prepare=prepare), dropout_key)


def products(maps: "Sequence[Linear]", x: Inputs, norm: "AnyNorm | None", prepare: Prepare | None) -> list[Array]:
    """norm(prepare(x)) Wᵀ of plain matrices. For the backward pass x is stored, and not what is multiplied."""

    def multiplied(x: Inputs, norm: Norm | None, weights: Sequence[Array]) -> list[Array]:
        x = x if prepare is None else prepare(x)
        x = x if norm is None else normalise(x, norm)
        return [linear(x, weight) for weight in weights]

    weights = [map.weight[...] for map in maps]
    if norm is None and prepare is None:
        return multiplied(x, None, weights)
    return recomputed(multiplied, x, None if norm is None else norm.parameters, weights)


class LowRankFactors(nnx.Module):
    """What an adapter adds to a linear map, see `model/lora.py`: gain · (y + B (A dropout(x))).

    Of several adapters, see `model/adapter_slots.py`, each token has the factors of its own.
    """

    def __init__(self) -> None:
        self.a, self.b, self.gain, self.key, self.rate = (parameter() for _ in range(5))  # what it lacks is None
        self.slot = parameter()

    @property
    def is_stacked(self) -> bool:
        """Whether these are the factors of several adapters."""
        return self.slot.get_value() is not None

    def of_rows(self, x: Array, *, norm: Norm | None, residual: Array | None, level: Level) -> Array:
        """residual + B (A norm(x)), with the factors of each token's adapter: [..., I] -> [..., O]"""
        a_sQI, b_sQO = self.a[...], self.b[...]
        return low_rank(x, self.slot[...], a_sQI, b_sQO, level=level, norm=norm, residual=residual)

    def __call__(self, x: Array, y: Array) -> Array:
        """[..., I], [..., O] -> [..., O]"""
        if self.is_stacked:
            return self.of_rows(x, norm=None, residual=y, level=Level.XLA)
        if self.key.get_value() is not None:
            retained = bernoulli(self.key[...], 1.0 - self.rate[...], x.shape)
            x = jnp.where(retained, x / (1.0 - self.rate[...]).astype(x.dtype), 0)
        y = add_low_rank(y, x, self.a[...], self.b[...])
        return y if self.gain.get_value() is None else y * self.gain[...].astype(x.dtype)


@dataclass(frozen=True)
class SublayerEnd:
    """How the output y of a sublayer is added to the residual stream: residual + scale · norm(dropout(y))."""

    norm: "AnyNorm | None" = None
    scale: float = 1.0
    dropout: float = 0.0

    @property
    def adds_as_is(self) -> bool:
        """Without dropout."""
        return self.norm is None and self.scale == 1.0

    def __call__(self, residual: Array, y: Array, dropout_key: Array | None) -> Array:
        y = normalised(dropout(y, self.dropout, dropout_key), self.norm)
        return residual + (y if self.scale == 1.0 else y * jnp.asarray(self.scale, y.dtype))


class Embedding(nnx.Module):
    """A table [rows, D]; also the output head where a model ties the two."""

    def __init__(self, rows: int, size: int) -> None:
        self.weight = parameter(rows, size)

    def __call__(self, ids: Array, dtype: jnp.dtype) -> Array:
        table = self.weight.get_value()
        packed = isinstance(table, BlockMatrix | FrozenMatrix)
        return (rows(table, ids) if packed else whole_rows(table)[ids]).astype(dtype)

    def scores(self, hidden: Array) -> Array:
        """The product of hidden states with every row."""
        table = self.weight.get_value()
        if isinstance(table, FrozenMatrix):
            return frozen_matmul(hidden, table)
        if isinstance(table, SummedMatrix):
            return summed_matmul(hidden, table)
        if isinstance(table, BlockMatrix):
            return matmul(hidden, table)
        return linear(hidden, table)


class LayerNorm(nnx.Module):
    """Layer normalisation (arXiv:1607.06450); `offset` is added to the scale."""

    def __init__(self, size: int, *, eps: float, offset: float = 0.0, bias: bool = True) -> None:
        self.weight = parameter(size)
        self.bias = parameter(size) if bias else None
        self.eps = eps
        self.offset = offset

    @property
    def parameters(self) -> Norm:
        bias = None if self.bias is None else self.bias[...]
        return Norm(self.weight[...].astype(jnp.float32) + self.offset, bias, self.eps, centred=True)

    def __call__(self, x: Array) -> Array:
        return normalise(x, self.parameters)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation (arXiv:1910.07467); `offset` is added to the scale."""

    def __init__(self, size: int, *, eps: float, offset: float = 0.0) -> None:
        self.weight = parameter(size)
        self.eps = eps
        self.offset = offset

    @property
    def parameters(self) -> Norm:
        return Norm(self.weight[...].astype(jnp.float32) + self.offset, None, self.eps)

    def __call__(self, x: Array) -> Array:
        return normalise(x, self.parameters)


AnyNorm = LayerNorm | RMSNorm


def make_norm(config: ModelConfig) -> AnyNorm:
    if config.norm == "layer_norm":
        return LayerNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset, bias=config.norm_bias)
    return RMSNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset)


def normalised(x: Array, norm: AnyNorm | None) -> Array:
    return x if norm is None else norm(x)


class FeedForward(nnx.Module):
    """fc2(act(fc1(x))), or fc2(act(fc1(x)) * gate_proj(x)) (GLU variants, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        D, F, bias = config.hidden_size, size, config.mlp_bias
        self.fc1 = Linear(D, F, bias=bias)
        self.gate_proj = Linear(D, F, bias=bias) if config.use_glu else None
        self.fc2 = Linear(F, D, bias=bias)
        self.activation = config.activation

    def __call__(
        self, x: Array, residual: Array, norm: AnyNorm | None, end: SublayerEnd, dropout_key: Array | None
    ) -> Array:
        """The residual stream [..., D] with feed_forward(norm(x)) added."""
        hidden, prepare = self.hidden(x, norm)
        return self.fc2.add_to(residual, hidden, end, dropout_key, prepare)

    def output(self, x: Array) -> Array:
        """feed_forward(x), [..., D]."""
        hidden, prepare = self.hidden(x, None)
        return self.fc2(hidden, prepare=prepare)

    def hidden(self, x: Array, norm: AnyNorm | None) -> tuple[Inputs, Prepare | None]:
        """What fc2 multiplies, or what that is made of and how."""
        maps = [self.fc1] if self.gate_proj is None else [self.fc1, self.gate_proj]
        if self.fc1.packed is not None and len(maps) == 1:
            return self.fc1(x, norm=norm, activation=self.activation), None
        if self.fc1.packed is not None and self.fc1.packed.gated:  # it has the gate in it, see packing.py
            pair = self.fc1.bias, maps[1].bias
            bias = None if pair[0] is None or pair[1] is None else jnp.stack([pair[0][...], pair[1][...]])
            return self.fc1(x, norm=norm, activation=self.activation, bias=bias), None
        if all(map.is_plain for map in maps):
            parts = products(maps, x, norm, None)
            biases = [None if map.bias is None else map.bias[...].astype(x.dtype) for map in maps]
            inputs = tuple(y if bias is None else y + bias for y, bias in zip(parts, biases, strict=True))
        else:
            x = normalised(x, norm)
            inputs = tuple(map(x) for map in maps)
        return inputs, partial(_gated, self.activation)


def _gated(activation: ActivationName, inputs: tuple[Array, ...]) -> Array:
    """act(inputs[0]) · inputs[1], or without the second."""
    y: Array = math.prod(inputs[1:], start=ACTIVATIONS[activation](inputs[0]))
    return y
