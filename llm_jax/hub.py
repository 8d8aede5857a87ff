"""Models by path or by their name on the Hugging Face Hub."""

from pathlib import Path

import jax.numpy as jnp

from llm_jax.checkpoint import GenerationDefaults, LoadedModel, load_model, save_model
from llm_jax.errors import CheckpointError
from llm_jax.model import Model
from llm_jax.tokenizers import Tokenizer

DESCRIPTION = ["*.json", "*.jinja", "tokenizer.model"]
SAFETENSORS, TORCH = "*.safetensors", "pytorch_model*.bin"


def from_pretrained(
    name_or_path: str | Path, *, revision: str | None = None, dtype: jnp.dtype | str | None = None
) -> LoadedModel:
    """The model and its tokenizer at a path (whatever `load_model` knows), or of that name on the Hub.

    Downloads go through huggingface_hub: its cache, its token, and its offline mode (HF_HUB_OFFLINE=1) hold.

    Args:
        revision: a branch, tag or commit on the Hub; its main branch unless given.
        dtype: cast the parameters; as stored unless given.

    Raises:
        CheckpointError: nothing is there, it cannot be downloaded, or it cannot be computed.

    >>> model, tokenizer = (loaded := from_pretrained("path/to/model")).model, loaded.tokenizer  # doctest: +SKIP
    """
    return load_model(find(name_or_path, revision=revision), dtype=dtype)


def find(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """The path itself, or where huggingface_hub keeps the model of that name, downloaded if need be.

    Raises CheckpointError when a name cannot be had. A path need not exist.
    """
    path = Path(name_or_path)
    if path.exists() or not _is_hub_name(str(name_or_path)):
        return path
    return _download(str(name_or_path), revision)


def save_pretrained(
    directory: str | Path,
    model: Model,
    tokenizer: Tokenizer | None = None,
    generation: GenerationDefaults | None = None,
) -> None:
    """Write the directory that `from_pretrained` reads: `save_model` under the name that transformers' users expect."""
    save_model(directory, model, tokenizer, generation)


def _is_hub_name(name: str) -> bool:
    """`model` or `owner/model`; everything else is a path."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part and not part.startswith((".", "~")) and "\\" not in part for part in parts)


def _download(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{name} does not exist here, and a name on the Hub needs the huggingface_hub package: install the extra "
            "'hf', or give a local path."
        ) from error
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=[*DESCRIPTION, SAFETENSORS]))
        if not any(path.glob(SAFETENSORS)):
            path = Path(snapshot_download(name, revision=revision, allow_patterns=[*DESCRIPTION, TORCH]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name} is no path that exists, and cannot be had from the Hub: {str(error).splitlines()[0].rstrip('.')}. "
            "Check the name, the network and HF_HUB_OFFLINE, or give a local path."
        ) from error
    return path
