"""What the commands that run a model share: which one, and the text to give it."""

import sys
from pathlib import Path

from llm_jax.checkpoint import LoadedModel, load_model
from llm_jax.errors import CheckpointError, DataError
from llm_jax.tokenizers import Tokenizer


def load_with_tokenizer(path: Path | None) -> tuple[LoadedModel, Tokenizer]:
    """The model at a path, or the demo model, which must bear a tokenizer."""
    if path is None:
        from llm_jax.demo import PATH

        path = PATH
    loaded = load_model(path)
    if loaded.tokenizer is None:
        raise CheckpointError(f"{path} has no tokenizer; put a tokenizer.json beside the weights.")
    return loaded, loaded.tokenizer


def read_text(path: Path) -> str:
    """A UTF-8 file; `-` is standard input."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first.") from None
