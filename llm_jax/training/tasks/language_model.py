"""Next-token prediction on text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llm_jax.data import unigram_entropy
from llm_jax.training.config import TrainConfig
from llm_jax.training.tasks.decoder_task import DecoderTask
from llm_jax.training.tasks.start import Start, open_start
from llm_jax.training.tasks.text_data import open_text_data
from llm_jax.training.tasks.tokenizer import find_tokenizer, make_tokenizer


@dataclass(frozen=True, kw_only=True)
class LanguageModelTask(DecoderTask):
    """A decoder and its text."""

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Make the tokenizer of the text, or load it; tokenise the text, split it, make rows.

        Raises:
            ConfigError: no text is named, or model.vocab_size is too small for the tokenizer.
            CheckpointError: there is no model at model.init_from.
            DataError: the text is missing or too short.
            TokenizerError: the tokenizer is missing or damaged.
        """
        stored = open_start(config.model)
        tokenizer = find_tokenizer(config, stored, resumed) or make_tokenizer(config)
        start = Start.build(config, stored, tokenizer)
        data = open_text_data(config, tokenizer, "text", config.window_within(start.config.max_seq_len))
        return cls.of(config, start, data, ("unigram entropy of the corpus", unigram_entropy(data.sequences)))
