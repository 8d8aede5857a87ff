"""A family as llama.cpp stores it: where more than the names of tensors differ."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_jax.checkpoint.family import Family, Json
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

LARGEST = 2**31 - 1
SIZES = frozenset({"embedding_length", "context_length", "attention.head_count", "attention.key_length"})
COUNTS = frozenset(
    {"feed_forward_length", "attention.head_count_kv", "attention.value_length", "attention.sliding_window"}
    | {"vocab_size", "expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_count"}
    | {"expert_shared_feed_forward_length", "leading_dense_block_count", "nextn_predict_layers"}
    | {"rope.dimension_count", "rope.scaling.original_context_length"}
)

TENSORS = "has tensors"  # their number, an entry beside those of the file
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
        self._check_numbers(entries)
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
        try:
            return super().read_config(entries)
        except (ArithmeticError, AttributeError, IndexError) as error:
            raise CheckpointError(f"The entries of {self.model_type} contradict each other: {error}.") from error

    def _check_numbers(self, entries: Json) -> None:
        """Raises CheckpointError about a number that nothing can be counted or computed with."""
        tensors = entries.get(TENSORS, LARGEST)
        for name in (name for name in entries if name.startswith(f"{self.model_type}.")):
            value, entry = entries[name], name.removeprefix(f"{self.model_type}.")
            if entry in COUNTS or entry in SIZES:
                least = 1 if entry in SIZES else 0
                ok = isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST
                allowed = f"a whole number of {least} to {LARGEST}"
            elif entry == "block_count":
                ok = isinstance(value, int) and 1 <= value <= tensors
                allowed = f"1 to {tensors}, as there are no more tensors"
            else:
                ok, allowed = not isinstance(value, float) or math.isfinite(value), "finite"
            if not ok:
                raise CheckpointError(f"The GGUF file has {name} = {value!r}; it must be {allowed}.")

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
