"""Load a model by its path alone: what lies there is recognised by looking."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llm_jax.checkpoint.directory import CONFIG, GENERATION, read_architecture, read_json
from llm_jax.checkpoint.documented import advice, check_positions, decoder_kwargs_to_config
from llm_jax.checkpoint.families import OWN
from llm_jax.checkpoint.family import Family
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.gguf import is_gguf, read_gguf
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.torch_file import read_torch_file
from llm_jax.checkpoint.weight_files import open_safetensors, open_weights
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.model import Model, param_sharding
from llm_jax.tokenizers import Tokenizer, load_tokenizer

ARGUMENTS = "model.json"  # beside a torch file: the keyword arguments of its DecoderModel


@dataclass(frozen=True)
class LoadedModel:
    """A model and what came with it.

    Attributes:
        tokenizer: None where none lies beside the weights.
        path: the directory or file that was read.
    """

    model: Model
    tokenizer: Tokenizer | None
    generation: GenerationDefaults
    path: Path


def load_model(path: str | Path, *, dtype: jnp.dtype | str | None = None, mesh: Mesh | None = None) -> LoadedModel:
    """The model at a path, which may be

    - a model directory (ours or Hugging Face's: config.json with safetensors or pytorch_model.bin);
    - the directory of a training run (its best model, or its last), or the `state` directory in it (its last);
    - a torch file (.pt, .pth, .bin) or a safetensors file, with model.json or config.json beside it;
    - a GGUF file, for which the gguf package must be installed.

    Args:
        dtype: cast the parameters; as stored unless given (float64 becomes float32).
        mesh: spread them over these devices (`tensor_parallel_mesh`); what is cut is whole on none of them at any time.

    Raises:
        CheckpointError: nothing is there, it is damaged, or its parts contradict each other.
        TokenizerError: the tokenizer beside the weights is damaged.
    """
    stored = open_model(path)

    def read(name: str) -> Array:
        value = np.asarray(stored.params.pop(name))
        # Copied, because files are mapped: whoever overwrites one must not change this model.
        if mesh is None:
            return jnp.array(value, dtype)
        place = param_sharding(stored.config, name, value.shape, mesh)
        return jax.device_put(np.array(value, dtype or value.dtype), place)

    params = {name: read(name) for name in list(stored.params)}
    return LoadedModel(Model(stored.config, params), stored.tokenizer, stored.generation, stored.path)


def open_model(path: str | Path) -> StoredModel:
    """What `load_model` loads, without reading the weights."""
    source = _recognise(Path(path))
    if is_gguf(source):
        return read_gguf(source)
    directory = source if source.is_dir() else source.parent
    tensors = open_weights(source) if source.is_dir() else _open_file(source)
    family, config, raw = _architecture(directory, tensors)
    if family is OWN:
        check_positions(config, tensors)
    params = family.read_weights(config, tensors)
    tokenizer = _tokenizer(directory, config)
    generation = GenerationDefaults.of_tokenizer(tokenizer)
    if (directory / GENERATION).is_file():
        generation = GenerationDefaults.from_json(read_json(directory / GENERATION), raw)
    elif "eos_token_id" in raw:
        generation = GenerationDefaults.from_json(raw)
    return StoredModel(source, config, params, tokenizer, generation)


def _recognise(path: Path) -> Path:
    """The model directory or the file that a path stands for."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.")
    if path.is_file() or (path / CONFIG).is_file():
        return path
    run, choices = (path.parent, ("last",)) if path.name == "state" else (path, ("best", "last"))
    for choice in choices:
        if (run / choice / CONFIG).is_file():
            return run / choice
    raise CheckpointError(
        f"{path} holds no model: expected config.json with weights, a training run with best or last in it, "
        "or the path of a torch file."
    )


def _open_file(path: Path) -> Mapping[str, np.ndarray]:
    """By content, not by the name's ending: torch files are zip archives."""
    if path.suffix == ".safetensors" and not zipfile.is_zipfile(path):
        return open_safetensors(path)
    return read_torch_file(path)


def _architecture(directory: Path, tensors: Mapping[str, np.ndarray]) -> tuple[Family, ModelConfig, dict[str, Any]]:
    if (directory / ARGUMENTS).is_file():
        try:
            return OWN, decoder_kwargs_to_config(read_json(directory / ARGUMENTS)), {}
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{directory / ARGUMENTS} does not describe a DecoderModel: {error}") from error
    if (directory / CONFIG).is_file():
        return read_architecture(directory)
    raise CheckpointError(f"{directory} has no {ARGUMENTS} and no {CONFIG}. {advice(tensors)}")


def _tokenizer(directory: Path, config: ModelConfig) -> Tokenizer | None:
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    tokenizer = load_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {directory} has {tokenizer.vocab_size} tokens and the model {config.vocab_size}: "
            "they do not belong together. Put the tokenizer there that the model was trained with."
        )
    return tokenizer
