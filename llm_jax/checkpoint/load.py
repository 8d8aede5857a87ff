"""Load a model by its path: a model directory, a training run, or a file."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llm_jax.checkpoint.adapters import base_of, merge_adapter, read_adapter
from llm_jax.checkpoint.decoder_arguments import check_positions, decoder_kwargs_to_config, model_json_advice
from llm_jax.checkpoint.directory import GENERATION, read_architecture, read_json
from llm_jax.checkpoint.families import DECODER_MODEL, text_tensors
from llm_jax.checkpoint.family import Family
from llm_jax.checkpoint.formats import open_weights, read_gguf
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.recognise import CONFIG, adapter_directory, recognise
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.tensors import as_stored
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError, LLMWarning
from llm_jax.model import Model, param_sharding
from llm_jax.tokenizers import Tokenizer, load_tokenizer

ARGUMENTS = "model.json"  # beside a torch file: the keyword arguments of its DecoderModel


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer and its generation ids.

    Attributes:
        tokenizer: None where the weights have none beside them.
        path: the directory or file that was read.
    """

    model: Model
    tokenizer: Tokenizer | None
    generation: GenerationDefaults
    path: Path


def load_model(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dtype: jnp.dtype | str | None = None,
    mesh: Mesh | None = None,
    mapped: bool = False,
) -> LoadedModel:
    """The model at a path, which may be

    - a model directory (this project's or Hugging Face's: config.json with safetensors or pytorch_model.bin);
    - the directory of a training run (its best model, or its last), or the `state` directory in it (its last);
    - a torch file (.pt, .pth, .bin) or a safetensors file, with model.json or config.json beside it;
    - a GGUF file, for which the gguf package must be installed;
    - an adapter of PEFT's or a run that trained one: its base model, with the adapter merged into its weights.

    Args:
        base: of an adapter; the one that its file names unless given.
        dtype: to cast the parameters to; unless given, they stay as stored (float64 becomes float32).
        mesh: shard them over these devices (`tensor_parallel_mesh`); a sharded parameter is never whole on a device.
        mapped: leave them in their file, as numpy arrays, or as QuantisedMatrix where it has them in blocks, for an
            engine that packs them anyway. Until then the file must not change.

    Raises:
        CheckpointError: there is no model, it is damaged, or its parts contradict each other.
        TokenizerError: the tokenizer beside the weights is damaged.

    >>> from llm_jax.demo import PATH
    >>> loaded = load_model(PATH)
    >>> loaded.tokenizer.decode(loaded.tokenizer.encode("The little dog"))
    'The little dog'
    """
    stored = open_model(path, base=base)

    def read(name: str) -> Array:
        tensor = stored.params.pop(name)
        if mapped and mesh is None and dtype is None:
            value: Any = as_stored(tensor)
            return value if value.dtype != np.float64 else value.astype(np.float32)
        value = np.asarray(tensor)
        # Copied, because files are mapped: overwriting one must not change this model.
        if mesh is None:
            return jnp.array(value, dtype)
        sharding = param_sharding(stored.config, name, value.shape, mesh)
        return jax.device_put(np.array(value, dtype or value.dtype), sharding)

    params = {name: read(name) for name in list(stored.params)}
    return LoadedModel(Model(stored.config, params), stored.tokenizer, stored.generation, stored.path)


def open_model(path: str | Path, *, base: str | Path | None = None) -> StoredModel:
    """`load_model` without reading the weights."""
    adapter = adapter_directory(Path(path))
    if adapter is not None:
        return _open_adapted(adapter, base)
    source = recognise(Path(path))
    if source.format == "gguf":
        return read_gguf(source.path)
    directory = source.directory
    tensors, left_out = text_tensors(open_weights(source))
    family, config, raw = _architecture(directory, tensors)
    if family is DECODER_MODEL:
        check_positions(config, tensors)
    if left_out:
        parts = " and ".join(sorted(left_out))
        warnings.warn(f"{source.path} has {parts} too; only its text half is read.", LLMWarning, stacklevel=2)
    config = family.resolve_tie(config, tensors)
    params = family.read_weights(config, tensors)
    tokenizer = _tokenizer(directory)
    generation = GenerationDefaults.of_tokenizer(tokenizer)
    if (directory / GENERATION).is_file():
        generation = GenerationDefaults.from_json(read_json(directory / GENERATION), raw)
    elif "eos_token_id" in raw:
        generation = GenerationDefaults.from_json({}, raw)
    return StoredModel(source.path, config, params, tokenizer, generation)


def _open_adapted(directory: Path, base: str | Path | None) -> StoredModel:
    """The base of an adapter, with the adapter merged into it, and the adapter's tokenizer where it has one."""
    base = base or base_of(directory)
    if base is None or not Path(base).exists():
        raise CheckpointError(
            f"{directory} is an adapter, and its base model {base or ''} is not here. Load the base, or name it: "
            "llm-convert BASE DESTINATION --adapter DIRECTORY merges the two."
        )
    stored = open_model(base)
    merged = merge_adapter(stored, read_adapter(directory, stored.config))
    return replace(merged, path=directory, tokenizer=_tokenizer(directory) or stored.tokenizer)


def _architecture(directory: Path, tensors: Mapping[str, np.ndarray]) -> tuple[Family, ModelConfig, dict[str, Any]]:
    if (directory / ARGUMENTS).is_file():
        try:
            return DECODER_MODEL, decoder_kwargs_to_config(read_json(directory / ARGUMENTS)), {}
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{directory / ARGUMENTS} does not describe a DecoderModel: {error}") from error
    if (directory / CONFIG).is_file():
        return read_architecture(directory)
    raise CheckpointError(f"{directory} has no {ARGUMENTS} and no {CONFIG}. {model_json_advice(tensors)}")


def _tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer beside the weights. It may have more ids than the model: only a text that uses one is refused."""
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    return load_tokenizer(directory)
