"""GGUF files as other writers leave them, and llama.cpp's word on what they mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_jax.checkpoint.formats.gguf.reader import read_content


def metadata_of(path: Path) -> dict[str, Any]:
    return read_content(path).metadata


def with_entries(path: Path, target: Path, changes: dict[str, Any], *, parts: int = 1) -> tuple[Path, dict[str, Any]]:
    """A copy of a file with changed metadata (None drops an entry), and all of it; the copy may be in several parts."""
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {name: value for name, value in (metadata_of(path) | changes).items() if value is not None}
    per_part = -(-len(reader.tensors) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(target, metadata.pop("general.architecture"), split_max_tensors=per_part)
    for name, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(name, value.tolist() if isinstance(value, np.ndarray) else value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target, metadata


def opened_by_llama_cpp(path: Path, context: int, **options: Any) -> Any:
    """The model in llama.cpp, with all logits and a cache of float32; skips the test without llama.cpp."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    return llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=32,
        n_threads=1,
        verbose=False,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        yarn_attn_factor=-1.0,  # what the file says: llama-cpp-python has defaults of its own
        yarn_beta_fast=-1.0,
        yarn_beta_slow=-1.0,
        **options,
    )


def logits_of_llama_cpp(path: Path, ids: Sequence[int], context: int) -> np.ndarray:
    """Logits [tokens, V]."""
    llama = opened_by_llama_cpp(path, context)
    llama.eval(list(ids))
    logits = llama.scores[: len(ids)].copy()
    llama.close()
    return logits
