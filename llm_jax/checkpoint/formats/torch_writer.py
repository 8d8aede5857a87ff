"""Write a file that `torch.load(path, weights_only=True)` reads as a state_dict, without torch, tensor by tensor.

The format is the one that `formats/torch.py` reads: a zip archive of raw storages, and a pickle that names them.
"""

import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path

import ml_dtypes
import numpy as np

from llm_jax.checkpoint.tensors import Tensor, blocks_of_rows

STORAGES = {
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
}


def write_torch_file(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: np.dtype | None = None,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a bare state_dict; one tensor at a time is in memory.

    Args:
        dtype: to cast to; unless given, tensors are stored in their own.
        written: called with the bytes of each tensor, in its own dtype, once it is written.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(tensors, dtype))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
        for key, tensor in enumerate(tensors.values()):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as storage:
                for block in blocks_of_rows(tensor, dtype):
                    storage.write(block.reshape(-1).view(np.uint8).data)
            written(tensor.nbytes)


def _pickled(tensors: Mapping[str, Tensor], dtype: np.dtype | None) -> bytes:
    """{name: _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)}, in opcodes of protocol 2.

    Written out, because pickling torch's functions by name would have to import them.
    """
    out = bytearray(b"\x80\x02}(")
    for key, (name, tensor) in enumerate(tensors.items()):
        storage = _global("torch", STORAGES[dtype or tensor.dtype])
        strides = list(accumulate((1, *tensor.shape[:0:-1]), mul))[::-1] if tensor.shape else []
        out += _text(name) + _global("torch._utils", "_rebuild_tensor_v2")
        reference = _text("storage") + storage + _text(str(key)) + _text("cpu") + _integer(tensor.size)
        out += b"((" + reference + b"tQ" + _integer(0) + _tuple(tensor.shape) + _tuple(strides)
        out += b"\x89" + _global("collections", "OrderedDict") + b")R" + b"tR"
    return bytes(out + b"u.")


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
