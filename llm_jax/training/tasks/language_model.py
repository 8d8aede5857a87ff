"""Next-token prediction on text."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jax.numpy as jnp
from jax import Array

from llm_jax.checkpoint import save_model
from llm_jax.config import ModelConfig
from llm_jax.data import Batch, TokenWindows, read_documents, split_documents, tokenize, unigram_entropy, windows
from llm_jax.errors import ConfigError
from llm_jax.model import Model, Params, forward_hidden, init_params
from llm_jax.tokenizers import Tokenizer, load_tokenizer
from llm_jax.training.config import TrainConfig
from llm_jax.training.step import LossSums
from llm_jax.training.tasks.losses import next_token_loss
from llm_jax.training.tasks.tokenizer import make_tokenizer


@dataclass(frozen=True)
class LanguageModelTask:
    """A decoder and its text. Every parameter is trainable."""

    config: ModelConfig
    tokenizer: Tokenizer
    train: TokenWindows
    validation: TokenWindows | None
    entropy: float
    unit: str = "tokens"
    beta2: float = 0.95

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Read the text, split it, make the tokenizer, or load that of the model of a resumed run, cut the windows.

        Raises:
            ConfigError: no text is named, or model.vocab_size is too small for the tokenizer.
            DataError: the text is missing or too short.
            TokenizerError: the tokenizer is missing or damaged.
        """
        train, held_out = _read(config)
        tokenizer = load_tokenizer(resumed) if resumed else make_tokenizer(config.data, train, held_out)
        model = _fit_vocabulary(config, tokenizer)
        tokens, T = tokenize(tokenizer, train), config.window
        validation = None
        if held_out:
            # A held-out text shorter than T is one shorter window.
            stream = tokenize(tokenizer, held_out)
            validation = windows(
                stream, max(1, min(T, len(stream) - 1)), overlap=0, pad=tokenizer.pad_token_id, name="held-out"
            )
        return cls(
            config=model,
            tokenizer=tokenizer,
            train=windows(tokens, T, overlap=config.data.overlap, pad=tokenizer.pad_token_id, name="training"),
            validation=validation,
            entropy=unigram_entropy(tokens),
        )

    @property
    def architecture(self) -> dict[str, object]:
        return self.config.to_dict()

    @property
    def baseline(self) -> tuple[str, float]:
        return "unigram entropy of the corpus", self.entropy

    def init_trainable(self, seed: int) -> Params:
        return init_params(self.config, seed)

    def init_frozen(self, seed: int) -> Params:
        return {}

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        params = frozen | trainable
        hidden_BTD, _ = forward_hidden(self.config, params, batch["inputs"], dtype=dtype, dropout_key=dropout_key)
        return *next_token_loss(self.config, params, hidden_BTD, batch["targets"], batch["weights"]), {}

    def save(self, directory: Path, params: Params) -> None:
        save_model(directory, Model(self.config, params), self.tokenizer)


def _read(config: TrainConfig) -> tuple[list[str], list[str]]:
    """Training and validation documents."""
    data = config.data
    if data.dataset_path is None:
        raise ConfigError(
            "data.dataset_path is not set, so there is no text to learn from. Set it in the YAML file "
            "or with --set data.dataset_path=FILE."
        )
    documents = read_documents(data.dataset_path)
    if not config.training.run_validation:
        return documents, []
    if data.val_dataset_path is not None:
        return documents, read_documents(data.val_dataset_path)
    return split_documents(documents, data.val_fraction)


def _fit_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> ModelConfig:
    if not config.vocab_size_given:
        return dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    if config.model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids. "
            "Leave model.vocab_size out to take the tokenizer's, or raise it."
        )
    return config.model
