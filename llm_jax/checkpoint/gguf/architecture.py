"""How llama.cpp lays tensors out where it differs from the names alone."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from llm_jax.checkpoint.family import Family, Json
from llm_jax.checkpoint.tensors import Tensor, mapped
from llm_jax.config import ModelConfig

Change = Callable[[np.ndarray], np.ndarray]

LOST = "rounding."  # before the name of a tensor: what must be added to it


@dataclass(frozen=True)
class Architecture(Family):
    """A family as llama.cpp stores it.

    Attributes:
        pairs: it rotates neighbouring rows of a query or key head as pairs, where Hugging Face's layout pairs the
            first half of a head with the second: the rows are stored in another order.
        offset_norms: scales are stored whole, not less norm_offset. What rounding takes off them is kept as metadata,
            so that they can be restored to the bit.
    """

    pairs: bool = False
    offset_norms: bool = False

    def stored(self, config: ModelConfig, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Json]:
        """Their tensors as the file holds them, and what the file needs beside to give them back."""
        changed, beside = self._in_order(config, tensors, _interleave), {}
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64)
            changed[name] = whole = (scale + config.norm_offset).astype(np.float32)
            lost = scale - (whole.astype(np.float64) - config.norm_offset)
            if lost.any():
                beside[LOST + name] = lost.tolist()
        return changed, beside

    def restored(self, config: ModelConfig, tensors: dict[str, Tensor], beside: Json) -> dict[str, Tensor]:
        """The reverse of `stored`."""
        changed = self._in_order(config, tensors, _separate)
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64) - config.norm_offset
            changed[name] = (scale + np.asarray(beside.get(LOST + name, 0.0))).astype(np.float32)
        return changed

    def _in_order(
        self, config: ModelConfig, tensors: dict[str, Tensor], order: Callable[[int], Change]
    ) -> dict[str, Tensor]:
        changed = dict(tensors)
        for name, tensor in tensors.items():
            if self.pairs and (head := re.search(r"\.attn_([qk])\.", name)):
                changed[name] = mapped(tensor, order(config.num_heads if head[1] == "q" else config.kv_heads))
        return changed

    def _offset(self, tensors: Iterable[str]) -> list[str]:
        return [name for name in tensors if self.offset_norms and name.endswith("norm.weight")]


def _interleave(heads: int) -> Change:
    return lambda rows: rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _separate(heads: int) -> Change:
    return lambda rows: rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
