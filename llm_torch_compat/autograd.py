"""The decoder's forward pass and its gradient, computed by JAX inside torch's autograd."""

from functools import partial
from typing import Any

import jax
from jax import Array
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llm_jax.config import ModelConfig
from llm_jax.model import KVCache, Params, forward
from llm_torch_compat.views import to_jax, to_torch

Inputs = dict[str, Any]  # what `llm_jax.model.forward` takes beside parameters and tokens


@partial(jax.jit, static_argnames="config")
def decode(config: ModelConfig, params: Params, tokens_BT: Array, inputs: Inputs) -> tuple[Array, KVCache | None]:
    """Logits, and the cache if there is one among the inputs."""
    out = forward(config, params, tokens_BT, **inputs)
    return out if inputs.get("cache") is not None else (out, None)


@partial(jax.jit, static_argnames="config")
def _decode_for_gradient(
    config: ModelConfig, trained: Params, frozen: Params, tokens_BT: Array, inputs: Inputs
) -> tuple[Array, Any, KVCache | None]:
    """Logits, the function from their gradient to the parameters' (a pytree of activations), and the cache."""
    return jax.vjp(lambda params: decode(config, params | frozen, tokens_BT, inputs), trained, has_aux=True)


@jax.jit
def _pull_back(vjp: Any, gradient_BTV: Array) -> Params:
    (gradients,) = vjp(gradient_BTV)
    return gradients


class Decode(Function):
    """(logits, keys and values …) as a function of the parameters that require a gradient, `names`.

    Keys and values carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, config: ModelConfig, views: Params, tokens: Array, inputs: Inputs, names: tuple[str, ...],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        trained = {name: views[name] for name in names}
        frozen = {name: view for name, view in views.items() if name not in trained}
        logits, ctx.vjp, cache = _decode_for_gradient(config, trained, frozen, tokens, inputs)
        ctx.names = names
        ctx.save_for_backward(*parameters)  # torch notices if one is changed in place before the backward pass
        kept = flat_cache(cache)
        ctx.mark_non_differentiable(*kept)
        return to_torch(logits), *kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        gradients = _pull_back(ctx.vjp, to_jax(gradient.contiguous()))
        return (None,) * 5 + tuple(to_torch(gradients[name]) for name in ctx.names)


def flat_cache(cache: KVCache | None) -> list[Tensor]:
    """k, v, k, v … of all layers, each [B, K, S, H]; nothing without a cache."""
    if cache is None:
        return []
    return [to_torch(x) for pair in zip(cache.keys, cache.values, strict=True) for x in pair]
