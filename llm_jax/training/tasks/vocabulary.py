"""A model's vocabulary and its tokenizer's: the rows of the embedding and of the head."""

import dataclasses

import numpy as np

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import TrainConfig

PER_TOKEN = ("embedding_layer.token_embeddings.weight", "lm_head.weight", "lm_head.bias")


def fit_vocabulary(config: TrainConfig, model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The architecture with a row for each id: as given, the tokenizer's, or those of the model to start from.

    The latter grow to a multiple of model.vocab_multiple where the tokenizer has more.

    Raises:
        ConfigError: model.vocab_size is too small for the tokenizer.
    """
    if "vocab_size" in config.model_given:
        if model.vocab_size < tokenizer.vocab_size:
            raise ConfigError(
                f"model.vocab_size is {model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids. "
                "Leave model.vocab_size out to take the tokenizer's, or raise it."
            )
        return model
    if config.model.init_from is None:
        return dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    if tokenizer.vocab_size <= model.vocab_size:
        return model
    multiple = config.model.vocab_multiple
    return dataclasses.replace(model, vocab_size=-(-tokenizer.vocab_size // multiple) * multiple)


def grown(name: str, value: np.ndarray, rows: int) -> np.ndarray:
    """A parameter with so many rows where it has one for each id; new ones are the mean of the others."""
    if name not in PER_TOKEN or len(value) >= rows:
        return value
    return np.concatenate([value, np.repeat(value.mean(0, keepdims=True), rows - len(value), axis=0)])
