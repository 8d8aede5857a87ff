"""Write and read a model directory, in Hugging Face's layout: config.json, weights, tokenizer, generation ids."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_jax.atomic import atomic_directory
from llm_jax.checkpoint.decoder_arguments import decoder_model_buffers
from llm_jax.checkpoint.families import DECODER_MODEL, family_for, family_of_config, text_entries
from llm_jax.checkpoint.family import Family
from llm_jax.checkpoint.formats import MAX_SHARD_BYTES, write_safetensors, write_torch_file
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.names import read_names
from llm_jax.checkpoint.recognise import CONFIG
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import Model
from llm_jax.tokenizers import Tokenizer

GENERATION = "generation_config.json"
Layout = Literal["transformers", "documented", "torch"]


def save_model(
    directory: str | Path,
    model: Model,
    tokenizer: Tokenizer | None = None,
    generation: GenerationDefaults | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model directory, atomically; an older model at that path is replaced.

    Where transformers has an equivalent architecture, config.json and the names are that family's, and it opens the
    directory; elsewhere they are DecoderModel's. The ids of `generation` default to the tokenizer's.

    Raises:
        CheckpointError: the path exists and is not a model, or a parameter is missing or misshaped.

    >>> import tempfile
    >>> from llm_jax.checkpoint import load_model
    >>> config = ModelConfig(vocab_size=9, hidden_size=4, num_layers=1, num_heads=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_model(directory, Model.init(config))
    ...     load_model(directory).model.config == config
    True
    """
    params: dict[str, Tensor] = {name: np.asarray(value) for name, value in model.params.items()}
    generation = generation or GenerationDefaults.of_tokenizer(tokenizer)
    stored = StoredModel(Path(directory), model.config, params, tokenizer, generation)
    write_directory(stored, max_shard_bytes=max_shard_bytes)


def write_directory(
    model: StoredModel,
    *,
    layout: Layout = "transformers",
    dtype: np.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """`save_model` at the model's path, for tensors that may still be on disk: one at a time is in memory.

    Args:
        layout: "transformers" writes the names of its family, where one is equivalent; "documented" writes those of
            DecoderModel; "torch" writes these in a torch file, model.pt.
        dtype: to cast to; unless given, parameters are stored in their own.
        written: called with the bytes of each tensor, in its own dtype, once it is written.
    """
    target, config = model.path, model.config
    if target.exists() and not _replaceable(target):
        raise CheckpointError(f"{target} exists and is not a model directory; choose an empty or a new one.")
    check_params(config, model.params)
    family = family_for(config) if layout == "transformers" else DECODER_MODEL
    stored_dtype = dtype or model.params["embedding_layer.token_embeddings.weight"].dtype
    tensors = family.write_weights(config, model.params)
    with atomic_directory(target) as new:
        _write_json(new / CONFIG, family.write_config(config) | {"dtype": str(stored_dtype)} | model.generation.ids())
        _write_json(new / GENERATION, model.generation.to_json())
        if layout == "torch":
            write_torch_file(new / "model.pt", tensors | decoder_model_buffers(config), dtype=dtype, written=written)
        else:
            write_safetensors(new, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes, written=written)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(new)


def read_architecture(directory: Path) -> tuple[Family, ModelConfig, dict[str, Any]]:
    """The family, the architecture and the content of config.json; of a model that sees pictures too, its text half's.

    Raises CheckpointError when it is damaged, of an unknown family, or asks for a computation that is not supported.
    """
    raw = read_json(directory / CONFIG)
    entries = text_entries(raw)
    family = family_of_config(entries)
    return family, family.read_config(entries), raw | entries


def check_params(config: ModelConfig, params: Mapping[str, Tensor]) -> None:
    """Raises one CheckpointError that lists all missing, unexpected and misshaped names."""
    read_names(DECODER_MODEL.table(config), config, params)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError when the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, where an object is expected.")
    return content


def _replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / CONFIG).is_file() or not any(target.iterdir()))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
