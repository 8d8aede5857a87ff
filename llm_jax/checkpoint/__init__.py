"""Files to parameters and back: model directories, torch and GGUF files, the state of a training run."""

from llm_jax.checkpoint.adapters import (
    LoadedAdapter,
    base_of,
    merge_adapter,
    new_adapter,
    read_adapter,
    write_adapter,
)
from llm_jax.checkpoint.conversion import convert, stored_dtype
from llm_jax.checkpoint.decoder_arguments import decoder_kwargs_to_config, decoder_model_buffers
from llm_jax.checkpoint.digest import tree_digest
from llm_jax.checkpoint.directory import Layout, check_params, save_model
from llm_jax.checkpoint.formats import read_torch_file
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.load import LoadedModel, load_model, open_model
from llm_jax.checkpoint.recognise import adapter_directory
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.train_state import PendingStep, TrainCheckpointer

__all__ = [
    "GenerationDefaults",
    "Layout",
    "LoadedAdapter",
    "LoadedModel",
    "PendingStep",
    "StoredModel",
    "TrainCheckpointer",
    "adapter_directory",
    "base_of",
    "check_params",
    "convert",
    "decoder_kwargs_to_config",
    "decoder_model_buffers",
    "load_model",
    "merge_adapter",
    "new_adapter",
    "open_model",
    "read_adapter",
    "read_torch_file",
    "save_model",
    "stored_dtype",
    "tree_digest",
    "write_adapter",
]
