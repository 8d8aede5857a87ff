"""What the commands that run a model share: which one, and the text to give it."""

import sys
from pathlib import Path

from llm_jax.checkpoint import LoadedModel
from llm_jax.errors import CheckpointError, DataError
from llm_jax.hub import from_pretrained
from llm_jax.tokenizers import Tokenizer


def load_with_tokenizer(name_or_path: str | None) -> tuple[LoadedModel, Tokenizer]:
    """The model at a path or of a name on the Hub, or the demo model; it must bear a tokenizer."""
    if name_or_path is None:
        from llm_jax.demo import PATH

        name_or_path = str(PATH)
    loaded = from_pretrained(name_or_path)
    if loaded.tokenizer is None:
        raise CheckpointError(f"{name_or_path} has no tokenizer; put a tokenizer.json beside the weights.")
    return loaded, loaded.tokenizer


def read_text(path: Path) -> str:
    """A UTF-8 file; `-` is standard input."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first.") from None
