"""Load a tokenizer by its path."""

from pathlib import Path

from llm_jax.tokenizers.base import Tokenizer
from llm_jax.tokenizers.character import CharacterTokenizer
from llm_jax.tokenizers.files import TokenizerFiles
from llm_jax.tokenizers.huggingface import HFTokenizer


def load_tokenizer(directory_or_file: str | Path) -> Tokenizer:
    """The tokenizer at a path; the content of its tokenizer.json decides its type.

    Raises:
        TokenizerError: there is none, or it is damaged.
    """
    path = Path(directory_or_file)
    if path.is_dir() and not (path / "tokenizer.json").is_file() and (path / "tokenizer_config.json").is_file():
        return HFTokenizer.from_pretrained(path)  # an older layout, which transformers converts
    files = TokenizerFiles.read(path)
    return CharacterTokenizer.from_files(files) or HFTokenizer.from_files(files)
