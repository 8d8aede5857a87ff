"""Torch tensors as JAX arrays over the same memory, and back."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import torch
from jax import Array
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_jax(tensor: Tensor) -> Array:
    """A JAX array over the tensor's memory; a copy where the layout leaves no choice (not aligned to 64 bytes)."""
    return jax.dlpack.from_dlpack(tensor.detach())


def to_torch(array: Array) -> Tensor:
    """A torch tensor over the array's memory. Nothing else may use the array afterwards."""
    return torch.from_dlpack(jax.block_until_ready(array))


def check_computable(name: str, tensor: Tensor) -> None:
    """Says at once that the decoder could not compute with such a weight; the meta device may hold a model meanwhile.

    Raises:
        TypeError: its dtype.
        RuntimeError: its device.
    """
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} would be {tensor.dtype}; the decoder computes in float32, bfloat16 or float16.")
    if tensor.is_meta:
        return
    try:
        jax.devices(tensor.device.type)
    except RuntimeError as error:
        raise RuntimeError(
            f"{name} would be on {tensor.device}, where JAX cannot compute: {error}. Keep the model on 'cpu', or "
            "install jax with support for that device."
        ) from error


class ParameterViews:
    """The JAX views of named parameters, made once per tensor and not once per call.

    JAX takes arrays for immutable, torch changes weights in place. That is sound here because a view is only ever
    an argument of a compiled function, which reads it anew on each call, and because every call is waited for.
    A view keeps its tensor's memory alive, so that an address cannot come to mean another tensor.
    """

    def __init__(self) -> None:
        self._views: dict[str, tuple[tuple[Any, ...], Array]] = {}

    def of(self, parameters: Mapping[str, Tensor]) -> dict[str, Array]:
        """Raises what `check_computable` raises, and RuntimeError for a parameter without values."""
        return {name: self._view(name, parameter) for name, parameter in parameters.items()}

    def _view(self, name: str, parameter: Tensor) -> Array:
        identity = (parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype, parameter.device)
        known = self._views.get(name)
        if known is not None and known[0] == identity:
            return known[1]
        check_computable(name, parameter)
        if parameter.is_meta:
            raise RuntimeError(f"{name} is on the meta device and has no values; materialise it with to_empty() first.")
        view = to_jax(parameter)
        if view.unsafe_buffer_pointer() == parameter.data_ptr():
            self._views[name] = (identity, view)
        return view

    def __reduce__(self) -> tuple[Callable[[], "ParameterViews"], tuple[()]]:
        """Copies and pickles of a module start without views, which point into the original's memory."""
        return ParameterViews, ()
