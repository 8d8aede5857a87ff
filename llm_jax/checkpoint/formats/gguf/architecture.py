"""A family as llama.cpp stores it: where more than the names of tensors differ."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_jax.checkpoint.family import Family, Json
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

ROUNDING = "rounding."  # prefix of a metadata key: the rounding error of the tensor that it names


@dataclass(frozen=True)
class Architecture(Family):
    """A family as llama.cpp stores it.

    Attributes:
        offset_norms: scales of norms are stored with norm_offset added. The rounding error of the sum is stored as
            metadata, so that they are restored bit for bit.
        known: the entries of the groups rope and attention that are read or change nothing; any other is refused.
    """

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
        changed, rounding = dict(tensors), {}
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64)
            changed[name] = whole = (scale + config.norm_offset).astype(np.float32)
            error = scale - (whole.astype(np.float64) - config.norm_offset)
            if error.any():
                rounding[ROUNDING + name] = error.tolist()
        return changed, rounding

    def from_file(self, config: ModelConfig, tensors: dict[str, Tensor], metadata: Json) -> dict[str, Tensor]:
        """The inverse of `to_file`."""
        changed = dict(tensors)
        for name in self._offset(tensors):
            scale = np.asarray(tensors[name], np.float64) - config.norm_offset
            changed[name] = (scale + np.asarray(metadata.get(ROUNDING + name, 0.0))).astype(np.float32)
        return changed

    def _offset(self, tensors: Iterable[str]) -> list[str]:
        return [name for name in tensors if self.offset_norms and name.endswith("norm.weight")]
