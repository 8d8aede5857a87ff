"""Text from a file or from standard input."""

import sys
from pathlib import Path

from llm_jax.errors import DataError


def read_text(path: Path) -> str:
    """A UTF-8 file; `-` is standard input."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first.") from None
