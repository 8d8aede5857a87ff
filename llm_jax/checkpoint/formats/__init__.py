"""The formats of files of weights: safetensors, torch files, and GGUF, which holds a whole model."""

from llm_jax.checkpoint.formats.gguf import read_gguf, write_gguf
from llm_jax.checkpoint.formats.safetensors import MAX_SHARD_BYTES, open_safetensors, write_safetensors
from llm_jax.checkpoint.formats.torch import read_torch_file
from llm_jax.checkpoint.formats.torch_writer import write_torch_file
from llm_jax.checkpoint.formats.weights import open_weights

__all__ = [
    "MAX_SHARD_BYTES",
    "open_safetensors",
    "open_weights",
    "read_gguf",
    "read_torch_file",
    "write_gguf",
    "write_safetensors",
    "write_torch_file",
]
