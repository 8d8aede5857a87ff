"""A GGUF file as a configuration, tensors and a tokenizer, and back."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from llm_jax.atomic import atomic_file
from llm_jax.checkpoint.formats.gguf.architecture import TENSORS
from llm_jax.checkpoint.formats.gguf.architectures import ARCHITECTURES, architecture_for
from llm_jax.checkpoint.formats.gguf.entries import ROPE_TENSORS
from llm_jax.checkpoint.formats.gguf.quantisation import KINDS, Encoded, has_q8_0_scales, importances, type_of
from llm_jax.checkpoint.formats.gguf.reader import Content, StoredTensor, part_of, read_content
from llm_jax.checkpoint.formats.gguf.tokenizer import read_generation, read_tokenizer, tokenizer_metadata
from llm_jax.checkpoint.recognise import is_gguf
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.tensors import LazyTensor, Tensor
from llm_jax.errors import CheckpointError, LLMWarning, TokenizerError
from llm_jax.kernels import FORMATS, BlockRows

if TYPE_CHECKING:
    from types import ModuleType

PLAIN = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}
NOT_READ = frozenset({"I8", "I16", "I32", "I64", "Q8_1", "Q8_K", "Q1_0"})  # indices, activations, nothing known


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
    others = sorted({tensor.type.name for tensor in content.tensors.values()} - FORMATS.keys() - PLAIN.keys())
    if others:
        warnings.warn(
            f"{path} has tensors in {', '.join(others)}, for which there are no products: at the file's own precision "
            "they are multiplied as Q8_0.",
            LLMWarning,
            stacklevel=2,
        )
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


def write_gguf(
    model: StoredModel,
    *,
    kind: str,
    importance: Mapping[str, np.ndarray] | None = None,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a GGUF file at the model's path, atomically; one tensor at a time is in memory.

    Args:
        kind: f32, f16 or bf16, for matrices, or one of KINDS (see `type_of`). Vectors are f32. Matrices whose rows are
            no multiple of 32 values are f16 instead of quantised; those whose values are too small or too large for
            q8_0 are f32. What the model has in blocks of the same type is copied.
        importance: of parameters, what the squared error of each input's weights counts: float32 [I].
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
    weighted: Mapping[str, np.ndarray] = {}
    if importance:
        rows = {
            name: np.broadcast_to(importance.get(name, np.float32(np.nan)), tensor.shape)
            for name, tensor in model.params.items()
        }
        weighted = importances(architecture.to_file(config, architecture.write_weights(config, rows))[0])
    with atomic_file(path) as new:
        writer = gguf.GGUFWriter(new, architecture.model_type)
        writer.add_file_type(
            gguf.LlamaFileType.ALL_F32 if kind == "f32" else gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"]
        )
        if kind in KINDS:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, value in metadata.items():
            if value is not None and "." in name and not name.startswith("has "):
                _add(gguf, writer, name, value)
        is_tied = config.tie_embeddings
        types = {
            name: type_of(name, tensor, kind, config.num_layers, is_tied=is_tied) for name, tensor in tensors.items()
        }
        exact = [name for name, type_ in types.items() if type_ == "q8_0" and not has_q8_0_scales(tensors[name])]
        if exact:
            types |= dict.fromkeys(exact, "f32")
            warnings.warn(
                f"{', '.join(exact)} stay in f32: q8_0 has no scale, in half precision, as small or as large.",
                LLMWarning,
                stacklevel=2,
            )
        encoded = {name: Encoded(tensor, types[name], weighted.get(name)) for name, tensor in tensors.items()}
        for name, tensor in encoded.items():
            ggml_type = gguf.GGMLQuantizationType[types[name].upper()]
            writer.add_tensor_info(name, tensors[name].shape, np.dtype(np.float32), tensor.nbytes, ggml_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in encoded.values():
            writer.write_tensor_data(tensor)
            written(tensor.tensor.nbytes)
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
