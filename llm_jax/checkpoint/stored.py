"""A model on its way from a disk or to one."""

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
        path: the directory or file where it lies, or is to lie.
        tokenizer: None where none lies beside the weights.
    """

    path: Path
    config: ModelConfig
    params: dict[str, Tensor]
    tokenizer: Tokenizer | None
    generation: GenerationDefaults
