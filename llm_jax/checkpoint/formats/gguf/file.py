"""A GGUF file as a configuration, tensors and a tokenizer, and back."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np

from llm_jax.atomic import atomic_file
from llm_jax.checkpoint.formats.gguf.architecture import TENSORS
from llm_jax.checkpoint.formats.gguf.architectures import ARCHITECTURES, architecture_for
from llm_jax.checkpoint.formats.gguf.entries import ROPE_TENSORS
from llm_jax.checkpoint.formats.gguf.reader import Content, StoredTensor, part_of, read_content
from llm_jax.checkpoint.formats.gguf.tokenizer import read_generation, read_tokenizer, tokenizer_metadata
from llm_jax.checkpoint.recognise import is_gguf
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.tensors import LazyTensor, Tensor, blocks_of_rows
from llm_jax.errors import CheckpointError, LLMWarning, TokenizerError
from llm_jax.kernels import FORMATS, BlockRows

if TYPE_CHECKING:
    from types import ModuleType

# The types of GGUF that are written -> the dtype of their values, before quantisation.
DTYPES = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "q8_0": np.dtype(np.float32),
}
PLAIN = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}
NOT_READ = frozenset({"I8", "I16", "I32", "I64", "Q8_1", "Q8_K"})  # indices, and types that only activations have
ALWAYS_FLOAT32 = ("ffn_gate_inp.", "position_embd.")  # llama.cpp needs these, and all vectors, in float32
Q8_0_BLOCK = 32  # values of a row that share a scale


def read_gguf(path: Path) -> StoredModel:
    """A GGUF file as a model; quantised tensors are dequantised to float32 when they are read.

    Raises CheckpointError when it is damaged, or of an unknown architecture or type.
    """
    content = read_content(path)
    path = part_of(path, 1)
    try:
        return _read_model(path, content)
    except TokenizerError as error:
        raise CheckpointError(f"{path} has a tokenizer that cannot be read: {error}") from error
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from error


def _read_model(path: Path, content: Content) -> StoredModel:
    metadata = content.metadata
    tensors = {name: _open(path, name, tensor) for name, tensor in content.tensors.items()}
    name = metadata.get("general.architecture")
    architecture = next((a for a in ARCHITECTURES if a.model_type == name), None)
    if architecture is None:
        known = ", ".join(a.model_type for a in ARCHITECTURES)
        raise CheckpointError(f"{path} is of the architecture {name!r}; known ones are {known}.")
    raw = {key: _plain(value) for key, value in metadata.items() if not key.startswith("tokenizer.")}
    raw |= {f"has {tensor}": True for tensor in tensors} | {TENSORS: len(tensors)}
    raw |= {f"has {tensor}": np.asarray(tensors.pop(tensor)).tolist() for tensor in ROPE_TENSORS if tensor in tensors}
    if "token_embd.weight" in tensors:
        raw[f"{name}.vocab_size"] = tensors["token_embd.weight"].shape[0]
    config = architecture.read_config(raw)
    params = architecture.read_weights(config, architecture.from_file(config, tensors, metadata))
    return StoredModel(path, config, _in_one_dtype(params), read_tokenizer(path, metadata), read_generation(metadata))


def write_gguf(model: StoredModel, *, type_name: str, written: Callable[[int], None] = lambda _: None) -> None:
    """Write a GGUF file at the model's path, atomically; one tensor at a time is in memory.

    Args:
        type_name: f32, f16, bf16 or q8_0, for matrices. Vectors are f32, and matrices whose rows are no multiple of
            32 values are f16 instead of q8_0; those whose values are too small or too large for it are f32.
        written: called with the bytes of each tensor, in its own dtype, once it is written.

    Raises:
        CheckpointError: llama.cpp has no such architecture, or no such tokenizer; or the path exists and is not a
            GGUF file.
    """
    path, config = model.path, model.config
    if path.exists() and not is_gguf(path):
        raise CheckpointError(f"{path} exists and is not a GGUF file; choose another name.")
    gguf = _library()
    architecture, config_of_architecture = architecture_for(config)
    tensors, rounding = architecture.to_file(config, architecture.write_weights(config, model.params))
    tokenizer = tokenizer_metadata(model.tokenizer, model.generation, config.vocab_size)
    metadata = architecture.write_config(config_of_architecture) | tokenizer | rounding
    divisors = [name for name in ROPE_TENSORS if f"has {name}" in metadata]
    tensors |= {name: np.array(metadata[f"has {name}"], np.float32) for name in divisors}
    with atomic_file(path) as new:
        writer = gguf.GGUFWriter(new, architecture.model_type)
        writer.add_file_type(
            gguf.LlamaFileType.ALL_F32 if type_name == "f32" else gguf.LlamaFileType[f"MOSTLY_{type_name.upper()}"]
        )
        for name, value in metadata.items():
            if value is not None and "." in name and not name.startswith("has "):
                _add(gguf, writer, name, value)
        types = {name: _type_of(name, tensor, type_name) for name, tensor in tensors.items()}
        exact = [name for name, type_ in types.items() if type_ == "q8_0" and not _has_q8_0_scales(tensors[name])]
        if exact:
            types |= dict.fromkeys(exact, "f32")
            warnings.warn(
                f"{', '.join(exact)} stay in f32: q8_0 has no scale, in half precision, as small or as large.",
                LLMWarning,
                stacklevel=2,
            )
        for name, tensor in tensors.items():
            ggml_type = gguf.GGMLQuantizationType[types[name].upper()]
            nbytes = _Encoded(gguf, tensor, types[name]).nbytes
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), nbytes, ggml_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            writer.write_tensor_data(_Encoded(gguf, tensor, types[name]))
            written(tensor.nbytes)
        writer.close()


def _open(path: Path, name: str, tensor: StoredTensor) -> Tensor:
    """A tensor of the mapped file."""
    type_name, shape = tensor.type.name, tensor.shape
    if type_name in PLAIN:
        return tensor.data.view(PLAIN[type_name]).reshape(shape)
    if type_name in NOT_READ:
        raise CheckpointError(f"{path} holds {name} as {type_name.lower()}, which no matrix of a model is read from.")
    gguf = _library()
    blocks, type_ = tensor.data.reshape(*shape[:-1], -1), gguf.GGMLQuantizationType[type_name]
    return LazyTensor(
        shape,
        np.dtype(np.float32),
        lambda: gguf.dequantize(blocks, type_).reshape(shape),
        quantised=lambda: _as_kernels_have_them(gguf, blocks, type_),
    )


def _as_kernels_have_them(gguf: "ModuleType", blocks: np.ndarray, type_: Any) -> BlockRows:
    """Rows in a format of the kernels."""
    if type_.name in FORMATS:
        return BlockRows(type_.name, blocks)
    return BlockRows("Q8_0", gguf.quantize(gguf.dequantize(blocks, type_), gguf.GGMLQuantizationType.Q8_0))


def _type_of(name: str, tensor: Tensor, type_name: str) -> str:
    if len(tensor.shape) == 1 or name.endswith(".bias") or any(part in name for part in ALWAYS_FLOAT32):
        return "f32"
    if type_name == "q8_0" and tensor.shape[-1] % Q8_0_BLOCK:
        return "f16"
    return type_name


def _has_q8_0_scales(tensor: Tensor) -> bool:
    """Whether the scale of every block of q8_0, in half precision, is off by less than half a step of its values."""
    for rows in blocks_of_rows(tensor, np.dtype(np.float32)):
        scale = np.abs(rows.reshape(-1, Q8_0_BLOCK)).max(-1) / 127
        with np.errstate(over="ignore"):
            error = np.abs(scale.astype(np.float16).astype(np.float32) - scale)
        if (error * 254 > scale).any():
            return False
    return True


@dataclass(frozen=True)
class _Encoded:
    """A tensor in the type of the file, with the two attributes that the library needs to write it."""

    gguf: "ModuleType"
    tensor: Tensor
    type_name: str

    @property
    def nbytes(self) -> int:
        values, size = self.gguf.GGML_QUANT_SIZES[self.gguf.GGMLQuantizationType[self.type_name.upper()]]
        return self.tensor.size // values * size

    def tofile(self, file: BinaryIO) -> None:
        quantized = self.gguf.GGMLQuantizationType.Q8_0
        for block in blocks_of_rows(self.tensor, DTYPES[self.type_name]):
            encoded = self.gguf.quantize(block, quantized) if self.type_name == "q8_0" else block
            file.write(encoded.view(np.uint8).data)


def _in_one_dtype(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Casts vectors to the dtype of half-precision matrices, where this is exact: a GGUF file has them in float32."""
    dtype = params["embedding_layer.token_embeddings.weight"].dtype
    exact: dict[str, Tensor] = {}
    for name, tensor in params.items():
        if tensor.dtype.itemsize > dtype.itemsize:
            wide = np.asarray(tensor)
            cast = wide.astype(dtype)
            if np.array_equal(wide, cast):
                exact[name] = cast
    return params | exact


def _add(gguf: "ModuleType", writer: Any, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case list():
            writer.add_array(name, value)


def _plain(value: Any) -> Any:
    """Arrays as lists, and a float32 entry as its shortest decimal: 1e-06, not 9.999999974752427e-07."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _library() -> "ModuleType":
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("A GGUF file needs the gguf package: install the extra 'gguf'.") from error
    return gguf
