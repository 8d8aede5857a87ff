"""A model on disk: its description, and its tensors before they are read."""

from dataclasses import dataclass
from pathlib import Path

from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig
from llm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class StoredModel:
    """A model's description, and tensors that are read when they are used.

    Attributes:
        path: the directory or file that it was read from, or is written to.
        tokenizer: None where the weights have none beside them.
    """

    path: Path
    config: ModelConfig
    params: dict[str, Tensor]
    tokenizer: Tokenizer | None
    generation: GenerationDefaults
