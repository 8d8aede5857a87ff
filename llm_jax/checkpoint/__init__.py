"""Files to parameters and back: model directories, torch files, the state of a training run."""

from llm_jax.checkpoint.convert import convert
from llm_jax.checkpoint.directory import check_params, save_model
from llm_jax.checkpoint.documented import decoder_kwargs_to_config
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.checkpoint.load import LoadedModel, load_model, open_model
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.torch_file import read_torch_file
from llm_jax.checkpoint.train_state import TrainCheckpointer

__all__ = [
    "GenerationDefaults",
    "LoadedModel",
    "StoredModel",
    "TrainCheckpointer",
    "check_params",
    "convert",
    "decoder_kwargs_to_config",
    "load_model",
    "open_model",
    "read_torch_file",
    "save_model",
]
