"""The examples of a decoder's task: datasets, as the configuration names them, to rows of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from llm_jax.data import (
    Form,
    Mixture,
    PackedRows,
    PreferencePairs,
    Source,
    TokenisingBar,
    TokenSequences,
    beginning,
    prepare,
    windows,
)
from llm_jax.errors import ConfigError, DataError
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import DataConfig, TrainConfig

Paths = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextData:
    """What a task is trained and measured on.

    Attributes:
        sequences: those that it is trained on.
        validation: held-out examples; None without.
        validations: further ones by name.
    """

    sequences: TokenSequences
    train: Source
    validation: Source | None = None
    validations: Mapping[str, Source] = field(default_factory=dict)


def dataset_paths(config: DataConfig) -> Paths:
    """All that data.dataset_path names.

    Raises:
        ConfigError: it is not set.
    """
    if config.dataset_path is None:
        raise ConfigError(
            "data.dataset_path is not set, so there is nothing to learn from. Set it in the YAML file "
            "or with --set data.dataset_path=FILE."
        )
    return tuple(config.dataset_path) if isinstance(config.dataset_path, dict) else config.dataset_path


def open_text_data(config: TrainConfig, tokenizer: Tokenizer, form: Form, length: int) -> TextData:
    """Tokenise the datasets, or open their shards; split off what is held out; make rows of `length` tokens.

    Args:
        form: what is learnt of a record.

    Raises:
        ConfigError: no dataset is named.
        DataError: a record is not as it should be, or nothing is left to train on.
    """
    data = config.data
    bar = TokenisingBar(quiet=config.logging.log_level in ("WARNING", "ERROR"))
    read = partial(prepare, tokenizer=tokenizer, form=form, cache=data.cache_dir, limit=data.cache_bytes, watcher=bar)
    rows = partial(_rows, config, tokenizer, form, length)
    paths = dataset_paths(data)
    mixed = data.dataset_path if isinstance(data.dataset_path, dict) else None
    parts = [read(paths)] if mixed is None else [read(path) for path in mixed]
    held_out: list[TokenSequences] = []
    validates = config.training.run_validation
    if validates and data.val_dataset_path is not None:
        held_out = [read(data.val_dataset_path)]
    elif validates:
        splits = [part.split(data.val_fraction, group=2 if form == "preferences" else 1) for part in parts]
        parts, held_out = [first for first, _ in splits], [last for _, last in splits]
        if not all(map(len, held_out)):
            raise DataError(
                "There is one example, and some must be held out: add more, name data.val_dataset_path, or set "
                "training.run_validation to false."
            )
    sources = [rows(part, "training") for part in parts]
    return TextData(
        sequences=_joined(parts),
        train=sources[0] if mixed is None else Mixture(sources, tuple(mixed.values())),
        validation=rows(_joined(held_out), "held-out") if held_out else None,
        validations={name: rows(read(path), name) for name, path in data.validation.items() if validates},
    )


def _joined(parts: list[TokenSequences]) -> TokenSequences:
    return TokenSequences(tuple(shard for part in parts for shard in part.shards))


def _rows(
    config: TrainConfig, tokenizer: Tokenizer, form: Form, length: int, sequences: TokenSequences, name: str
) -> Source:
    """Rows of `length` tokens.

    Raises:
        DataError: there are none.
    """
    pad = tokenizer.pad_token_id or 0
    if form == "preferences":
        pairs = PreferencePairs(sequences, length, pad)
        return _filled(pairs, f"No {name} pair has both answers within the first {length} tokens")
    packing = config.data.packing or _usual_packing(config.data, tokenizer, form)
    if packing == "stream":
        fitting = length if name == "training" else max(1, min(length, len(sequences.stream) - 1))
        overlap = config.data.overlap if name == "training" else 0
        return windows(sequences, fitting, overlap=overlap, pad=tokenizer.pad_token_id, name=name)
    # A text begins with its BOS, or else behind the end of another text.
    first = tokenizer.eos_token_id if form == "text" and not beginning(tokenizer) else None
    packed = PackedRows(
        sequences,
        length,
        pad,
        first=first,
        split=form == "text",
        share=packing == "documents",
        seed=config.training.seed,
    )
    return _filled(packed, f"No {name} example has something to learn within the first {length} tokens")


def _usual_packing(config: DataConfig, tokenizer: Tokenizer, form: Form) -> str:
    runs_on = config.overlap > 0 or tokenizer.eos_token_id is None
    return "stream" if form == "text" and runs_on else "documents"


def _filled(source: Source, message: str) -> Source:
    if not len(source):
        raise DataError(f"{message} (data.max_seq_len). Raise it, or add data.")
    return source
