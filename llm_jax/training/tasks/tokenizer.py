"""The tokenizer of a language model: loaded, or made from the training text."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np

from llm_jax.atomic import atomic_directory
from llm_jax.checkpoint import StoredModel
from llm_jax.data import SEPARATOR, cache_directory, cut_point, dataset_digest, read_texts
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
from llm_jax.training.tasks.text_data import Paths, dataset_paths


def find_tokenizer(config: TrainConfig, stored: StoredModel | None, resumed: Path | None) -> Tokenizer | None:
    """The tokenizer of a resumed run, that at data.tokenizer_path, or that of the model to start from; None of none.

    Raises:
        ConfigError: data.tokenizer_type is "hf" and data.tokenizer_path is not set; data.chat_template names no file.
        CheckpointError: the model to start from has no tokenizer, and no other is named.
        TokenizerError: there is no tokenizer at tokenizer_path.
    """
    tokenizer = _find_tokenizer(config.data, stored, resumed)
    return None if tokenizer is None else _with_template(config.data, tokenizer)


def _find_tokenizer(data: DataConfig, stored: StoredModel | None, resumed: Path | None) -> Tokenizer | None:
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


def _with_template(data: DataConfig, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the chat template that is named."""
    if data.chat_template is not None:
        path = Path(data.chat_template)
        try:
            tokenizer.chat_template = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise ConfigError(f"data.chat_template is {path}: {reason}. Name a file with a Jinja template.") from None
    return tokenizer


def make_tokenizer(config: TrainConfig) -> Tokenizer:
    """A tokenizer of the text, stored beside its tokens: the same text and settings find it there.

    BPE merges are learnt from the training documents alone. A character vocabulary includes the held-out ones too:
    which characters exist says nothing about which follows which, and an unknown one could not be encoded at all.

    Raises:
        ConfigError: no text is named.
        DataError: the text is missing, or a record is not as it should be.
    """
    data, paths = config.data, dataset_paths(config.data)
    held_out = [data.val_dataset_path] if config.training.run_validation and data.val_dataset_path else []
    split_off = config.training.run_validation and not held_out and data.val_fraction
    others = [*held_out, *data.validation.values()] if config.training.run_validation else []
    digests = [dataset_digest(part, cache=data.cache_dir) for part in (paths, *others)]
    settings = [data.vocab_size, split_off] if data.tokenizer_type == "bpe" else []
    key = blake2b(json.dumps([data.tokenizer_type, digests, settings]).encode(), digest_size=16).hexdigest()
    cache = cache_directory() if data.cache_dir is None else Path(data.cache_dir)
    target = cache / "tokenizers" / key
    if not target.is_dir():
        if data.tokenizer_type == "bpe":
            texts = _training_texts(paths, split_off or 0.0)
            tokenizer: Tokenizer = BPETokenizer.train(texts, data.vocab_size, chat_template=DEFAULT_CHAT_TEMPLATE)
        else:
            characters = set(SEPARATOR).union(*(text for part in (paths, *others) for text in read_texts(part)))
            tokenizer = CharacterTokenizer(sorted(characters))
        with atomic_directory(target) as new:
            tokenizer.save_pretrained(new)
    return _with_template(data, load_tokenizer(target))


def _training_texts(paths: Paths, held_out: float) -> Iterator[str]:
    """The texts without the last ones, of about that fraction of the characters; a single one is cut."""
    sizes = np.array([len(text) for text in read_texts(paths)])
    if not held_out:
        yield from read_texts(paths)
    elif len(sizes) == 1:
        yield next(read_texts(paths))[: int(sizes[0] * (1.0 - held_out))]
    elif len(sizes):
        yield from islice(read_texts(paths), cut_point(sizes, held_out))
