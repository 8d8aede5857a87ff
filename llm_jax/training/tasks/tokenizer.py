"""The tokenizer of a language model: loaded, or made from the training text."""

from collections.abc import Sequence
from pathlib import Path

from llm_jax.checkpoint import StoredModel
from llm_jax.data import SEPARATOR
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.tokenizers import (
    DEFAULT_CHAT_TEMPLATE,
    BPETokenizer,
    CharacterTokenizer,
    HFTokenizer,
    Tokenizer,
    load_tokenizer,
)
from llm_jax.training.config import DataConfig, TrainConfig


def find_tokenizer(config: TrainConfig, stored: StoredModel | None, resumed: Path | None) -> Tokenizer | None:
    """The tokenizer of a resumed run, that at data.tokenizer_path, or that of the model to start from; None of none.

    Raises:
        ConfigError: data.tokenizer_type is "hf" and data.tokenizer_path is not set.
        CheckpointError: the model to start from has no tokenizer, and no other is named.
        TokenizerError: there is no tokenizer at tokenizer_path.
    """
    data = config.data
    if resumed is not None:
        return load_tokenizer(resumed)
    if data.tokenizer_path is not None:
        load = HFTokenizer.from_pretrained if data.tokenizer_type == "hf" else load_tokenizer
        return load(data.tokenizer_path)
    if stored is not None and stored.tokenizer is None:
        raise CheckpointError(f"{stored.path} has no tokenizer; name one with data.tokenizer_path.")
    if stored is None and data.tokenizer_type == "hf":
        raise ConfigError("data.tokenizer_type is hf: set data.tokenizer_path to a directory or a Hub name.")
    return None if stored is None else stored.tokenizer


def make_tokenizer(config: DataConfig, train: Sequence[str], held_out: Sequence[str]) -> Tokenizer:
    """A tokenizer of the text.

    BPE merges are learnt from the training documents alone. A character vocabulary includes the held-out ones too:
    which characters exist says nothing about which follows which, and an unknown one could not be encoded at all.
    """
    if config.tokenizer_type == "bpe":
        return BPETokenizer.train(train, config.vocab_size, chat_template=DEFAULT_CHAT_TEMPLATE)
    return CharacterTokenizer([*train, *held_out, SEPARATOR])
