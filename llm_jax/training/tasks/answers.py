"""Supervised fine-tuning: conversations, or prompts and completions, whose answers are learnt."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llm_jax.data import Form, PackedRows, TokenSequences, prepare
from llm_jax.errors import ConfigError, DataError
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import TrainConfig
from llm_jax.training.tasks.decoder_task import DecoderTask
from llm_jax.training.tasks.start import Start, open_start
from llm_jax.training.tasks.tokenizer import find_tokenizer


@dataclass(frozen=True, kw_only=True)
class SupervisedTask(DecoderTask):
    """A decoder that learns what the assistant says; several conversations share a row, and do not see each other."""

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Read the records, render conversations by the chat template, pack them into rows.

        Raises:
            ConfigError: no data or no model is named.
            CheckpointError: there is no model at model.init_from.
            DataError: a record is not as it should be, or none is left to train on.
        """
        start = start_with_tokenizer(config, resumed)
        train, held_out = (
            rows(config, start, sequences, name)
            for sequences, name in zip(read(config, start.tokenizer, "answers"), ("training", "held-out"), strict=True)
        )
        assert train is not None
        return cls(
            start=start,
            train=train,
            validation=held_out,
            floor=("a uniform guess", math.log(start.config.vocab_size)),
            settings=config.training,
        )


def start_with_tokenizer(config: TrainConfig, resumed: Path | None) -> Start:
    """The decoder of a task whose data do not make a tokenizer.

    Raises:
        ConfigError: neither a model to start from nor a tokenizer is named.
    """
    stored = open_start(config.model)
    tokenizer = find_tokenizer(config, stored, resumed)
    if tokenizer is None:
        raise ConfigError(
            "There is no tokenizer for these data. Name a model to start from with --init-from (model.init_from), or a "
            "tokenizer with data.tokenizer_path."
        )
    return Start.build(config, stored, tokenizer)


def read(config: TrainConfig, tokenizer: Tokenizer, form: Form) -> tuple[TokenSequences, TokenSequences | None]:
    """Training and held-out sequences."""
    settings = config.data
    if settings.dataset_path is None:
        raise ConfigError(
            "data.dataset_path is not set, so there is nothing to learn from. Set it in the YAML file "
            "or with --set data.dataset_path=FILE."
        )
    sequences = prepare(settings.dataset_path, tokenizer, form)
    if not config.training.run_validation:
        return sequences, None
    if settings.val_dataset_path is not None:
        return sequences, prepare(settings.val_dataset_path, tokenizer, form)
    train, held_out = sequences.split(settings.val_fraction, group=2 if form == "preferences" else 1)
    if not len(held_out):
        raise DataError(
            "There is one example, and some must be held out: add more, name data.val_dataset_path, or set "
            "training.run_validation to false."
        )
    return train, held_out


def rows(config: TrainConfig, start: Start, sequences: TokenSequences | None, name: str) -> PackedRows | None:
    """Sequences packed into rows of the window's length.

    Raises:
        DataError: nothing is left.
    """
    if sequences is None:
        return None
    length = config.window_within(start.config.max_seq_len)
    packed = PackedRows(sequences, length, start.tokenizer.pad_token_id or 0, seed=config.training.seed)
    if not len(packed):
        raise DataError(
            f"No {name} example has an answer within the first {length} tokens (data.max_seq_len). Raise it."
        )
    return packed
