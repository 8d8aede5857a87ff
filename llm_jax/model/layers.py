"""The plain parts of a decoder: linear maps, embeddings, norms, dropout, the feed-forward block.

Weights lie as torch and safetensors hold them ([out, in] for a linear map), so that files and the torch face
map onto them without a copy. Every layer computes in the dtype of its input.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import ActivationName, Norm, PackedMatrix, matmul

INIT_STD = 0.02  # GPT-2's

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float = INIT_STD) -> nnx.Param[Array]:
    return nnx.Param(jax.random.normal(rngs.params(), shape) * std)


class Linear(nnx.Module):
    """y = norm(x) Wᵀ + b + residual, with W [out, in], or packed for the CPU's kernels, which do it all in one call."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool, rngs: nnx.Rngs, std: float = INIT_STD) -> None:
        self.weight = normal(rngs, (size_out, size_in), std)
        self.bias = nnx.Param(jnp.zeros(size_out)) if bias else None

    def __call__(self, x: Array, *, norm: "LayerNorm | RMSNorm | None" = None, residual: Array | None = None) -> Array:
        weight = self.weight.get_value()
        if isinstance(weight, PackedMatrix):
            return self.product(x, norm=norm, residual=residual)
        if norm is not None:
            x = norm(x)
        y = jnp.einsum("...i,oi->...o", x, weight.astype(x.dtype))
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y if residual is None else residual + y

    @property
    def packed(self) -> PackedMatrix | None:
        weight = self.weight.get_value()
        return weight if isinstance(weight, PackedMatrix) else None

    def product(
        self,
        x: Array,
        *,
        norm: "LayerNorm | RMSNorm | None",
        activation: ActivationName = "none",
        bias: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """The packed map. `bias` stands in for the map's own (a gated pair's two)."""
        if bias is None and self.bias is not None:
            bias = self.bias[...]
        fused = None if norm is None else norm.fused
        return matmul(x, self.weight.get_value(), bias, norm=fused, activation=activation, residual=residual)


class Embedding(nnx.Module):
    """A table [rows, D]; also the output head where a model ties the two."""

    def __init__(self, rows: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.weight = normal(rngs, (rows, size))

    def __call__(self, ids: Array, dtype: jnp.dtype) -> Array:
        return self.weight[...][ids].astype(dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation (arXiv:1607.06450), computed in float32."""

    def __init__(self, size: int, *, eps: float) -> None:
        self.weight = nnx.Param(jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size))
        self.eps = eps

    @property
    def fused(self) -> Norm:
        return Norm(self.weight[...], self.bias[...], self.eps, centred=True)

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (y * self.weight[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation (arXiv:1910.07467), computed in float32; `offset` is added to the scale."""

    def __init__(self, size: int, *, eps: float, offset: float = 0.0) -> None:
        self.weight = nnx.Param(jnp.full(size, 1.0 - offset))
        self.eps = eps
        self.offset = offset

    @property
    def fused(self) -> Norm:
        return Norm(self.weight[...].astype(jnp.float32) + self.offset, None, self.eps)

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return (y * (self.weight[...] + self.offset)).astype(x.dtype)


def make_norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    if config.norm == "layer_norm":
        return LayerNorm(config.hidden_size, eps=config.norm_eps)
    return RMSNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset)


class FeedForward(nnx.Module):
    """act(fc1(x)) then fc2, or act(fc1(x)) * gate_proj(x) then fc2 (GLU variants, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, F, bias = config.hidden_size, config.ffn_size, config.mlp_bias
        self.fc1 = Linear(D, F, bias=bias, rngs=rngs)
        self.gate_proj = Linear(D, F, bias=bias, rngs=rngs) if config.use_glu else None
        self.fc2 = Linear(F, D, bias=bias, rngs=rngs, std=residual_std(config))
        self.activation = config.activation

    def __call__(self, x: Array, *, norm: LayerNorm | RMSNorm | None = None, residual: Array | None = None) -> Array:
        return self.fc2(self.hidden(x, norm), residual=residual)

    def hidden(self, x: Array, norm: LayerNorm | RMSNorm | None) -> Array:
        if self.fc1.packed is not None:  # fc1 holds the gate too, see packing.py
            bias = None
            if self.gate_proj is not None and self.gate_proj.bias is not None and self.fc1.bias is not None:
                bias = jnp.stack([self.fc1.bias[...], self.gate_proj.bias[...]])
            return self.fc1.product(x, norm=norm, activation=self.activation, bias=bias)
        if norm is not None:
            x = norm(x)
        hidden = ACTIVATIONS[self.activation](self.fc1(x))
        return hidden if self.gate_proj is None else hidden * self.gate_proj(x)


def residual_std(config: ModelConfig) -> float:
    """GPT-2 shrinks what is added to the residual stream by its depth, two additions a layer."""
    return INIT_STD / (2 * config.num_layers) ** 0.5


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Inverted dropout (Srivastava et al. 2014); the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def softcap(x: Array, cap: float | None) -> Array:
    """Squeezes values into (-cap, cap) smoothly (Gemma 2, arXiv:2408.00118, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)
