"""The section `model`: an architecture, or a model to start from."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from llm_jax.config import ModelConfig, require


@dataclass(frozen=True, kw_only=True)
class ModelSection(ModelConfig):
    """The architecture of a new model; or a model to start from, with its architecture, tokenizer and weights."""

    init_from: str | None = None  # whatever can be loaded: a directory, a run, a GGUF file, a name on the Hub
    vocab_multiple: int = (
        64  # where its tokenizer is replaced by a larger one, the embedding grows to a multiple of this
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.vocab_multiple >= 1, self, "vocab_multiple", "at least 1")

    @property
    def architecture(self) -> ModelConfig:
        return ModelConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ModelConfig)})

    def set_fields(self, given: frozenset[str]) -> dict[str, Any]:
        """The fields of the architecture that are `given`, or differ from their defaults."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(ModelConfig)
            if f.name in given or getattr(self, f.name) != f.default
        }
