"""A family as llama.cpp stores it: where more than the names of tensors differ."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from llm_jax.checkpoint.family import Family, Json
from llm_jax.checkpoint.tensors import Tensor, mapped
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

Change = Callable[[np.ndarray], np.ndarray]

ROUNDING = "rounding."  # prefix of a metadata key: the rounding error of the tensor that it names


@dataclass(frozen=True)
class Architecture(Family):
    """A family as llama.cpp stores it.

    Attributes:
        interleaved_rope: rotary pairs are neighbouring rows of a query or key head, where Hugging Face's layout pairs
            the first half of a head with the second: rows are permuted.
        offset_norms: scales of norms are stored with norm_offset added. The rounding error of the sum is stored as
            metadata, so that they are restored bit for bit.
        known: the entries of the groups rope and attention that are read or change nothing; any other is refused.
    """

    interleaved_rope: bool = False
    offset_norms: bool = False
    known: frozenset[str] = frozenset()

    def read_config(self, entries: Json) -> ModelConfig:
        for name in entries:
            if (
                name.startswith((f"{self.model_type}.rope.", f"{self.model_type}.attention."))
                and name not in self.known
            ):
                raise CheckpointError(f"The GGUF file has {name} = {entries[name]!r}, which is not known here.")
        if entries.get(f"{self.model_type}.attention.causal") is False:
            raise CheckpointError(
                "The GGUF file is of a model whose tokens see those after them, which writes no text."
            )
        return super().read_config(entries)

    def to_file(self, config: ModelConfig, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Json]:
        """The tensors as the file stores them, and metadata with their rounding errors."""
        changed, rounding = self._permuted(config, tensors, _interleave), {}
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64)
            changed[name] = whole = (scale + config.norm_offset).astype(np.float32)
            error = scale - (whole.astype(np.float64) - config.norm_offset)
            if error.any():
                rounding[ROUNDING + name] = error.tolist()
        return changed, rounding

    def from_file(self, config: ModelConfig, tensors: dict[str, Tensor], metadata: Json) -> dict[str, Tensor]:
        """The inverse of `to_file`."""
        changed = self._permuted(config, tensors, _separate)
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64) - config.norm_offset
            changed[name] = (scale + np.asarray(metadata.get(ROUNDING + name, 0.0))).astype(np.float32)
        return changed

    def _permuted(
        self, config: ModelConfig, tensors: dict[str, Tensor], permutation: Callable[[int], Change]
    ) -> dict[str, Tensor]:
        changed = dict(tensors)
        for name, tensor in tensors.items():
            if self.interleaved_rope and (head := re.search(r"\.attn_([qk])\.", name)):
                changed[name] = mapped(tensor, permutation(config.num_heads if head[1] == "q" else config.kv_heads))
        return changed

    def _offset(self, tensors: Iterable[str]) -> list[str]:
        return [name for name in tensors if self.offset_norms and name.endswith("norm.weight")]


def _interleave(heads: int) -> Change:
    return lambda rows: rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _separate(heads: int) -> Change:
    return lambda rows: rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
