"""Supervised fine-tuning: conversations, or prompts and completions, whose answers are learnt."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llm_jax.errors import ConfigError
from llm_jax.training.config import TrainConfig
from llm_jax.training.tasks.decoder_task import DecoderTask
from llm_jax.training.tasks.start import Start, open_start
from llm_jax.training.tasks.text_data import open_text_data
from llm_jax.training.tasks.tokenizer import find_tokenizer

ALL_LEARNT = (
    "These data are text, without a prompt or a user: all of it is learnt, as --task lm does. To learn answers alone, "
    "give records with messages, or with prompt and completion."
)


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
        data = open_text_data(config, start.tokenizer, "answers", config.window_within(start.config.max_seq_len))
        marked = any(shard.learnt is not None for shard in data.sequences.shards)
        notes = () if marked else (ALL_LEARNT,)
        return cls.of(config, start, data, ("a uniform guess", math.log(start.config.vocab_size)), notes=notes)


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
