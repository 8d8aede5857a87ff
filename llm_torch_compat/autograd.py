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
from llm_jax.model import Params, dense_arrays, dense_cache, forward
from llm_torch_compat.views import to_jax, to_torch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Call:
    """What is asked of the decoder, less the weights, and less the keys and values it goes on from.

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


def run(call: Call, parameters: Mapping[str, Tensor], views: Params, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the keys and values with the new ones behind the past; part of torch's graph where it is recorded.

    Args:
        views: the parameters as JAX sees them.
        kept: k, v, k, v … of all layers, each [B, K, S, H] with room for the new tokens; or nothing.
    """
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if torch.is_grad_enabled() and (trained or any(x.requires_grad for x in kept)):
        logits, *kept = Decode.apply(call, views, tuple(trained), *kept, *trained.values())
        return logits, kept
    computed, arrays = _decode(call, views, [to_jax(x) for x in kept])
    return to_torch(computed), [to_torch(x) for x in arrays]


@jax.jit
def _decode(call: Call, params: Params, kept: list[Array]) -> tuple[Array, list[Array]]:
    cache = None
    if kept:
        cache = dense_cache(kept, jnp.broadcast_to(call.past, call.tokens_BT.shape[:1]))
    out = forward(
        call.config, params, call.tokens_BT, mask=call.mask, dtype=call.dtype, dropout_key=call.dropout_key, cache=cache
    )
    if cache is None:
        return out, []
    logits, cache = out
    return logits, dense_arrays(cache)


@jax.jit
def _decode_for_gradient(call: Call, trained: Params, frozen: Params, kept: list[Array]) -> Any:
    """What `_decode` gives, and the function from its gradient to those of `trained` and `kept`."""
    return jax.vjp(lambda params, kept: _decode(call, params | frozen, kept), trained, kept)


@jax.jit
def _pull_back(vjp: Any, gradients: tuple[Array, list[Array]]) -> tuple[Params, list[Array]]:
    return vjp(gradients)


class Decode(Function):
    """(logits, k, v, k, v …) as a function of `tensors`: the keys and values kept, then the parameters `names`."""

    @staticmethod
    def forward(ctx: Any, call: Call, views: Params, names: tuple[str, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) - len(names)
        trained = {name: views[name] for name in names}
        frozen = {name: view for name, view in views.items() if name not in trained}
        (logits, kept), vjp = _decode_for_gradient(call, trained, frozen, list(map(to_jax, tensors[:count])))
        activations, ctx.vjp = jax.tree.flatten(vjp)
        ctx.names = names
        # Torch lets go of what is saved after the backward pass, and notices a parameter that is changed before it.
        ctx.save_for_backward(*map(to_torch, activations), *tensors[count:])
        return to_torch(logits), *map(to_torch, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        activations = [to_jax(tensor) for tensor in ctx.saved_tensors[: ctx.vjp.num_leaves]]
        logits, *kept = (to_jax(gradient.contiguous()) for gradient in gradients)
        of_weights, of_kept = _pull_back(jax.tree.unflatten(ctx.vjp, activations), (logits, kept))
        return None, None, None, *map(to_torch, of_kept), *(to_torch(of_weights[name]) for name in ctx.names)
