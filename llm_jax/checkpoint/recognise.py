"""Recognise what lies at a path: a model directory, a training run, or a file of safetensors, of torch, or of GGUF."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_jax.errors import CheckpointError

Format = Literal["safetensors", "torch", "gguf"]

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = SAFETENSORS + ".index.json"
TORCH_FILES = ("pytorch_model.bin", "pytorch_model.pt", "model.pt", "model.pth")
TORCH_INDEX = TORCH_FILES[0] + ".index.json"
# The weights of a model directory: the first of these files that is there, and the format of it or of its shards.
WEIGHTS: dict[str, Format] = {
    SAFETENSORS: "safetensors",
    SAFETENSORS_INDEX: "safetensors",
    **dict.fromkeys(TORCH_FILES, "torch"),
    TORCH_INDEX: "torch",
}
GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True)
class Source:
    """Where a model lies.

    Attributes:
        path: its directory, or its file.
        weights: the file of its weights, or the index of their shards.
        format: of that file, or of those shards.
    """

    path: Path
    weights: Path
    format: Format

    @property
    def directory(self) -> Path:
        """Where the configuration and the tokenizer lie."""
        return self.weights.parent

    @property
    def is_sharded(self) -> bool:
        return self.weights != self.path and self.weights.name in (SAFETENSORS_INDEX, TORCH_INDEX)


def recognise(path: Path) -> Source:
    """The model that a path stands for.

    A directory with config.json is a model directory; one with `best` or `last` in it is a training run, as is its
    `state` directory (the last model). A file is recognised by its content.

    Raises CheckpointError when there is none.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.")
    if path.is_file():
        return Source(path, path, _format_of_file(path))
    if (path / CONFIG).is_file():
        return model_directory(path)
    run, choices = (path.parent, ("last",)) if path.name == "state" else (path, ("best", "last"))
    for choice in choices:
        if (run / choice / CONFIG).is_file():
            return model_directory(run / choice)
    raise CheckpointError(
        f"{path} holds no model: expected config.json with weights, a training run with best or last in it, "
        "or the path of a torch file."
    )


def adapter_directory(path: Path) -> Path | None:
    """The directory of the adapter that a path stands for, of a training run its best or last; None for a model."""
    state = path.name == "state" and not (path / ADAPTER).is_file()
    run, choices = (path.parent, ("last",)) if state else (path, (".", "best", "last"))
    for directory in (run / choice for choice in choices):
        if (directory / CONFIG).is_file():
            return None
        if (directory / ADAPTER).is_file():
            return directory
    return None


def model_directory(path: Path) -> Source:
    """A model directory and its weights. Raises CheckpointError when it has no weights."""
    for name, format in WEIGHTS.items():
        if (path / name).is_file():
            return Source(path, path / name, format)
    raise CheckpointError(f"{path} holds no weights: expected {SAFETENSORS}, {SAFETENSORS_INDEX} or {TORCH_FILES[0]}.")


def is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _format_of_file(path: Path) -> Format:
    """Safetensors have no magic number, so their suffix decides, unless the file is a zip archive as torch's are."""
    if is_gguf(path):
        return "gguf"
    return "safetensors" if path.suffix == ".safetensors" and not zipfile.is_zipfile(path) else "torch"
