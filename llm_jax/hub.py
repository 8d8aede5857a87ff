"""Models by path, by their name on the Hugging Face Hub, or the demo model that ships with the package."""

from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import demo
from llm_jax.checkpoint import (
    GenerationDefaults,
    LoadedModel,
    StoredModel,
    adapter_directory,
    base_of,
    load_model,
    open_model,
    save_model,
)
from llm_jax.errors import CheckpointError
from llm_jax.memory import return_freed_memory
from llm_jax.model import Model
from llm_jax.tokenizers import Tokenizer

DESCRIPTION = ["*.json", "*.jinja", "tokenizer.model"]
SAFETENSORS, TORCH = "*.safetensors", "pytorch_model*.bin"


def from_pretrained(
    name_or_path: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
) -> LoadedModel:
    """The model and its tokenizer at a path (whatever `load_model` knows), or of that name on the Hub.

    Downloads go through huggingface_hub: its cache, its token, and its offline mode (HF_HUB_OFFLINE=1) hold.

    Args:
        name_or_path: the demo model unless given.
        revision: a branch, tag or commit on the Hub; its main branch unless given.
        dtype: cast the parameters; as stored unless given.
        mesh: shard the parameters over these devices, as `load_model` does.

    Raises:
        CheckpointError: nothing is there, it cannot be downloaded, or it cannot be computed.

    >>> loaded = from_pretrained()
    >>> loaded.model.config.max_seq_len
    512
    >>> loaded.tokenizer.decode(loaded.tokenizer.encode("Once upon a time"))
    'Once upon a time'
    """
    path = find(name_or_path, revision=revision)
    return load_model(path, base=_base(path), dtype=dtype, mesh=mesh)


def load_with_tokenizer(
    name_or_path: str | Path | None, *, adapter: str | Path | None = None, mesh: Mesh | None = None
) -> tuple[LoadedModel, Tokenizer]:
    """`from_pretrained`, for text in and text out by an engine: the weights stay in their file until it packs them.

    Args:
        adapter: a directory of PEFT's, merged into the weights.

    Raises:
        CheckpointError: as `from_pretrained`, or the model has no tokenizer.
    """
    path = find(name_or_path)
    if adapter is None:
        loaded = load_model(path, base=_base(path), mesh=mesh, mapped=True)
    else:
        loaded = load_model(find(adapter), base=path, mesh=mesh, mapped=True)
    if loaded.tokenizer is None:
        raise CheckpointError(f"{loaded.path} has no tokenizer; put its tokenizer.json beside the weights.")
    return_freed_memory()  # building a tokenizer takes several times what it has at the end
    return loaded, loaded.tokenizer


def find(name_or_path: str | Path | None, *, revision: str | None = None) -> Path:
    """The path itself, or where huggingface_hub stores the model of that name, downloaded if need be.

    Raises CheckpointError when a name cannot be downloaded. A path need not exist.
    """
    if name_or_path is None:
        return demo.PATH
    path = Path(name_or_path)
    if path.exists() or not _is_hub_name(str(name_or_path)):
        return path
    return _download(str(name_or_path), revision)


def open_pretrained(name_or_path: str | Path | None, adapter: str | Path | None = None) -> StoredModel:
    """`from_pretrained` without reading the weights.

    Args:
        adapter: a directory of PEFT's, merged into the weights.
    """
    path = find(name_or_path)
    if adapter is not None:
        return open_model(find(adapter), base=path)
    return open_model(path, base=_base(path))


def _base(path: Path) -> Path | None:
    """The base model of an adapter, downloaded if need be; None for a model."""
    adapter = adapter_directory(path)
    base = None if adapter is None else base_of(adapter)
    return None if base is None else find(base)


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
