"""Torch tensors as JAX arrays over the same memory, and back."""

from collections.abc import Callable
from typing import Any

import jax
import torch
from jax import Array
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_jax(tensor: Tensor) -> Array:
    """A JAX array over the tensor's memory; a copy where the layout leaves no choice (not aligned to 64 bytes).

    Raises:
        RuntimeError: JAX has no such device.
    """
    try:
        return jax.dlpack.from_dlpack(tensor.detach())
    except Exception as error:  # each device raises its own
        raise RuntimeError(
            f"JAX cannot compute on a tensor on {tensor.device}: {error}. Move the model with .to('cpu'), or install "
            "jax with support for that device."
        ) from error


def to_torch(array: Array) -> Tensor:
    """A torch tensor over the array's memory. Nothing else may use the array afterwards."""
    return torch.from_dlpack(jax.block_until_ready(array))


class ParameterViews:
    """The JAX views of a module's parameters, made once per tensor and not once per call.

    JAX takes arrays for immutable, torch changes weights in place. That is sound here because a view is only ever
    an argument of a compiled function, which reads it anew on each call, and because every call is waited for.
    A view keeps its tensor's memory alive, so that an address cannot come to mean another tensor.
    """

    def __init__(self) -> None:
        self._views: dict[str, tuple[tuple[Any, ...], Array]] = {}

    def of(self, module: torch.nn.Module) -> dict[str, Array]:
        """Raises TypeError for a dtype that the decoder does not compute in."""
        return {name: self._view(name, parameter) for name, parameter in module.named_parameters()}

    def _view(self, name: str, parameter: Tensor) -> Array:
        if parameter.dtype not in DTYPES:
            raise TypeError(f"{name} is {parameter.dtype}; the decoder computes in float32, bfloat16 or float16.")
        if parameter.is_meta:
            raise RuntimeError(f"{name} is on the meta device and has no values; materialise it with to_empty() first.")
        identity = (parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype, parameter.device)
        known = self._views.get(name)
        if known is not None and known[0] == identity:
            return known[1]
        view = to_jax(parameter)
        if view.unsafe_buffer_pointer() == parameter.data_ptr():
            self._views[name] = (identity, view)
        return view

    def __reduce__(self) -> tuple[Callable[[], "ParameterViews"], tuple[()]]:
        """Copies and pickles of a module start without views, which point into the original's memory."""
        return ParameterViews, ()
