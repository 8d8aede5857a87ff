"""Functions that layers and kernels are made of, in plain JAX: one definition of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.config import ActivationKind
from llm_jax.kernels.xla.random import bernoulli

ActivationName = ActivationKind | Literal["none"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {  # in the order of the enum in cpu/src/activations.h
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
    """Parameters of RMS norm, or of layer norm where `centred`."""

    weight: Array
    bias: Array | None = None
    epsilon: float = field(default=1e-5, metadata={"static": True})
    centred: bool = field(default=False, metadata={"static": True})


def normalise(x: Array, norm: Norm) -> Array:
    """RMS norm (arXiv:1910.07467) or layer norm (arXiv:1607.06450) over the last axis, computed in float32.

    Returns:
        An array of x's shape and dtype.
    """
    y = x.astype(jnp.float32)
    if norm.centred:
        y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + norm.epsilon) * norm.weight
    return (y if norm.bias is None else y + norm.bias).astype(x.dtype)


def rotate(x_BTJH: Array, cosine_BTh: Array, sine_BTh: Array) -> Array:
    """Rotary position embedding (RoFormer, arXiv:2104.09864): each head rotated by its token's angles.

    Pairs are (i, i + h), the layout of Hugging Face's weights; dimensions beyond 2 h pass through.
    """
    h = cosine_BTh.shape[2]
    first, second, rest = x_BTJH[..., :h], x_BTJH[..., h : 2 * h], x_BTJH[..., 2 * h :]
    cosine, sine = cosine_BTh[:, :, None], sine_BTh[:, :, None]
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return jnp.concatenate([turned.astype(x_BTJH.dtype), rest], axis=-1)


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Inverted dropout (Srivastava et al. 2014); the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def afresh(values: Any, after: Array) -> Any:
    """The same values, which the compiler takes for others that depend on `after`.

    In a backward pass, what is made of them is then computed again. Otherwise the compiler finds the same in the
    forward pass, and keeps it until then.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return jax.lax.optimization_barrier((values, after))[0]
    # XLA's CPU compiler removes barriers. This is zero unless `after` is not finite, which it cannot know.
    zero = after[(0,) * after.ndim] * 0
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), values)


def softcap(x: Array, cap: float | None) -> Array:
    """Smooth bound to (-cap, cap): cap · tanh(x / cap) (Gemma 2, arXiv:2408.00118, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)
