"""The decoder's forward pass and its gradient, computed by JAX inside torch's autograd."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llm_jax.config import ModelConfig
from llm_jax.model import Params, dense_arrays, dense_cache, dense_layout, forward
from llm_torch_compat.views import to_jax, to_torch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecoderInputs:
    """The inputs of the decoder, beside its weights and the cached keys and values.

    Attributes:
        dtype: what to compute in; the weights' own where it is None.
        tokens_BT: int32.
        past: how many tokens the keys and values hold, int32 scalar.
        mask: bool [B, 1, T, S], True = may attend.
        dropout_key: switches dropout on.
    """

    config: ModelConfig = field(metadata={"static": True})
    dtype: str | None = field(metadata={"static": True})
    tokens_BT: Array
    past: Array
    mask: Array | None
    dropout_key: Array | None


def run(
    inputs: DecoderInputs, parameters: Mapping[str, Tensor], views: Params, cached: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the keys and values with the new ones behind the past; part of torch's graph where it is recorded.

    Args:
        views: the parameters as JAX sees them.
        cached: k, v, k, v … of all layers, each [B, K, S, H] with capacity for the new tokens; or nothing.
    """
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if torch.is_grad_enabled() and (trained or any(x.requires_grad for x in cached)):
        logits, *cached = Decode.apply(inputs, views, tuple(trained), *cached, *trained.values())
        return logits, cached
    computed, arrays = _decode(inputs, views, [to_jax(x) for x in cached])
    return to_torch(computed), [to_torch(x) for x in arrays]


@jax.jit
def _decode(inputs: DecoderInputs, params: Params, cached: list[Array]) -> tuple[Array, list[Array]]:
    cache = layout = None
    if cached:
        B, T = inputs.tokens_BT.shape
        cache = dense_cache(cached)
        layout = dense_layout(cache, jnp.broadcast_to(inputs.past, B), T)
    out = forward(
        inputs.config,
        params,
        inputs.tokens_BT,
        mask=inputs.mask,
        dtype=inputs.dtype,
        dropout_key=inputs.dropout_key,
        cache=cache,
        layout=layout,
    )
    if cache is None:
        return out, []
    logits, cache = out
    return logits, dense_arrays(cache)


@jax.jit
def _decode_for_gradient(inputs: DecoderInputs, trained: Params, frozen: Params, cached: list[Array]) -> Any:
    """What `_decode` gives, and the function from its gradient to those of `trained` and `cached`."""
    return jax.vjp(lambda params, cached: _decode(inputs, params | frozen, cached), trained, cached)


@jax.jit
def _pull_back(vjp: Any, gradients: tuple[Array, list[Array]]) -> tuple[Params, list[Array]]:
    return vjp(gradients)


class Decode(Function):
    """(logits, k, v, k, v …) as a function of `tensors`: the cached keys and values, then the parameters `names`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: DecoderInputs, views: Params, names: tuple[str, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        count = len(tensors) - len(names)
        trained = {name: views[name] for name in names}
        frozen = {name: view for name, view in views.items() if name not in trained}
        (logits, cached), vjp = _decode_for_gradient(inputs, trained, frozen, list(map(to_jax, tensors[:count])))
        activations, ctx.vjp = jax.tree.flatten(vjp)
        ctx.names = names
        # Torch lets go of what is saved after the backward pass, and notices a parameter that is changed before it.
        ctx.save_for_backward(*map(to_torch, activations), *tensors[count:])
        return to_torch(logits), *map(to_torch, cached)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        activations = [to_jax(tensor) for tensor in ctx.saved_tensors[: ctx.vjp.num_leaves]]
        logits, *cached = (to_jax(gradient.contiguous()) for gradient in gradients)
        of_weights, of_cached = _pull_back(jax.tree.unflatten(ctx.vjp, activations), (logits, cached))
        return None, None, None, *map(to_torch, of_cached), *(to_torch(of_weights[name]) for name in ctx.names)
