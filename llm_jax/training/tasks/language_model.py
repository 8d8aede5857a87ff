"""Next-token prediction on text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llm_jax.data import read_documents, split_documents, tokenize, unigram_entropy, windows
from llm_jax.errors import ConfigError
from llm_jax.training.config import TrainConfig
from llm_jax.training.tasks.decoder_task import DecoderTask
from llm_jax.training.tasks.start import Start, open_start
from llm_jax.training.tasks.tokenizer import find_tokenizer, make_tokenizer


@dataclass(frozen=True, kw_only=True)
class LanguageModelTask(DecoderTask):
    """A decoder and its text."""

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Read the text, split it, make the tokenizer, or load that of the model of a resumed run, cut the windows.

        Raises:
            ConfigError: no text is named, or model.vocab_size is too small for the tokenizer.
            CheckpointError: there is no model at model.init_from.
            DataError: the text is missing or too short.
            TokenizerError: the tokenizer is missing or damaged.
        """
        train, held_out = _read(config)
        stored = open_start(config.model)
        tokenizer = find_tokenizer(config, stored, resumed) or make_tokenizer(config.data, train, held_out)
        start = Start.build(config, stored, tokenizer)
        tokens, T = tokenize(tokenizer, train), config.window_within(start.config.max_seq_len)
        validation = None
        if held_out:
            # A held-out text shorter than T is one shorter window.
            stream = tokenize(tokenizer, held_out)
            validation = windows(
                stream, max(1, min(T, len(stream) - 1)), overlap=0, pad=tokenizer.pad_token_id, name="held-out"
            )
        return cls(
            start=start,
            train=windows(tokens, T, overlap=config.data.overlap, pad=tokenizer.pad_token_id, name="training"),
            validation=validation,
            floor=("unigram entropy of the corpus", unigram_entropy(tokens)),
            settings=config.training,
        )


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
