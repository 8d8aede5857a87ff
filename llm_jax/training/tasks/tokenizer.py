"""The tokenizer of a language model: loaded, or made from the training text."""

from collections.abc import Sequence

from llm_jax.data import SEPARATOR
from llm_jax.errors import ConfigError
from llm_jax.tokenizers import (
    DEFAULT_CHAT_TEMPLATE,
    BPETokenizer,
    CharacterTokenizer,
    HFTokenizer,
    Tokenizer,
    load_tokenizer,
)
from llm_jax.training.config import DataConfig


def make_tokenizer(config: DataConfig, train: Sequence[str], held_out: Sequence[str]) -> Tokenizer:
    """Load the tokenizer at tokenizer_path, or make one from the text.

    BPE merges are learnt from the training documents alone. A character vocabulary includes the held-out ones too:
    which characters exist says nothing about which follows which, and an unknown one could not be encoded at all.

    Raises:
        ConfigError: tokenizer_type is "hf" and tokenizer_path is not set.
        TokenizerError: there is no tokenizer at tokenizer_path.
    """
    if config.tokenizer_type == "hf":
        if config.tokenizer_path is None:
            raise ConfigError("data.tokenizer_type is hf: set data.tokenizer_path to a directory or a Hub name.")
        return HFTokenizer.from_pretrained(config.tokenizer_path)
    if config.tokenizer_path is not None:
        return load_tokenizer(config.tokenizer_path)
    if config.tokenizer_type == "bpe":
        return BPETokenizer.train(train, config.vocab_size, chat_template=DEFAULT_CHAT_TEMPLATE)
    return CharacterTokenizer([*train, *held_out, SEPARATOR])
