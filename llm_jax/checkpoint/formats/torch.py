"""Read the tensors of a `torch.save` file without torch, and without ever running what the file says to run.

The format is a zip archive: `data.pkl` describes nested containers of tensors, `data/<key>` holds the raw bytes of
each storage. A pickle can call any importable function; this reader resolves the handful of names that a
state_dict needs and refuses every other name before anything is called.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from llm_jax.errors import CheckpointError

STATE_DICT_KEYS = ("model_state_dict", "model_state")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel, torch.compile

_STORAGE_DTYPES = {
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "ShortStorage": np.dtype(np.int16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "BoolStorage": np.dtype(np.bool_),
}


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """The model tensors of a torch file, under their plain names.

    A state_dict nested under `model_state_dict` or `model_state` is unwrapped; any leading `module.` and `_orig_mod.`
    are dropped from names. The arrays are read-only views of the mapped file
    (bfloat16 through ml_dtypes), so that opening a large file reads only its index.

    Raises:
        CheckpointError: the file is missing, damaged, in the format before torch 1.6, holds no state_dict, or its
            pickle asks for anything but tensors in plain containers.
    """
    path = Path(path)
    content = _read_archive(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; save model.state_dict() instead.")
    state = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not tensors or len(tensors) < len(state):
        others = [str(name) for name in state if name not in tensors]
        raise CheckpointError(
            f"{path} holds no state_dict: {', '.join(others[:5]) or 'it is empty'}"
            f"{' are not tensors' if others else ''}. A checkpoint is a bare state_dict, or a dict that holds one "
            f"under {' or '.join(STATE_DICT_KEYS)}."
        )
    return strip_wrapper_prefixes(tensors)


def strip_wrapper_prefixes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors, with the prefixes of wrapper modules stripped from their names.

    Raises CheckpointError if two names become one.
    """
    plain: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        bare = name
        while bare.startswith(WRAPPER_PREFIXES):
            bare = bare.split(".", 1)[1]
        if bare in plain:
            raise CheckpointError(f"{bare} occurs twice, with and without a {' or '.join(WRAPPER_PREFIXES)} prefix.")
        plain[bare] = tensor
    return plain


def _read_archive(path: Path) -> Any:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            index = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
            if len(index) != 1:
                raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote (no data.pkl).")
            root = index[0].removesuffix("data.pkl")
            byteorder = root + "byteorder"
            if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
                raise CheckpointError(f"{path} was saved on a big-endian machine; save it again on a common one.")
            records = dict(_records(archive, file, root + "data/"))
            with archive.open(index[0]) as pickled:
                return _TensorUnpickler(pickled, path, records).load()
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(
            f"{path} is not a torch file, or is cut short ({error}). Files from before torch 1.6 have to be loaded "
            "and saved again with a later torch."
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise CheckpointError(f"{path} is damaged: its index cannot be read ({error}).") from error


def _records(archive: zipfile.ZipFile, file: BinaryIO, folder: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each storage as a mapped uint8 array; torch never compresses them."""
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    for entry in archive.infolist():
        if not entry.filename.startswith(folder):
            continue
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{entry.filename} is compressed; torch.save does not write such files.")
        # The local header ends in a name and an extra field; their lengths are at bytes 26 and 28.
        name_length, extra_length = struct.unpack("<HH", bytes(mapped[entry.header_offset + 26 :][:4]))
        start = entry.header_offset + 30 + name_length + extra_length
        record = mapped[start : start + entry.file_size]
        if record.size != entry.file_size:
            raise CheckpointError(f"{entry.filename} is cut short.")
        yield entry.filename.removeprefix(folder), record


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors in plain containers. `find_class` resolves only the names below."""

    def __init__(self, file: Any, path: Path, records: Mapping[str, np.ndarray]) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise CheckpointError(
                f"{self._path} asks to run {module}.{name}, which a state_dict does not need. It was refused and "
                "nothing was executed. Save model.state_dict() alone, or do not trust this file."
            )
        return allowed[module, name]

    def persistent_load(self, reference: Any) -> np.ndarray:
        tag, storage, key, _device, length = reference
        if tag != "storage":
            raise CheckpointError(f"{self._path} refers to a {tag!r}; only tensor storages are known.")
        dtype = _STORAGE_DTYPES[storage]
        if key not in self._records or self._records[key].size < length * dtype.itemsize:
            raise CheckpointError(f"{self._path} is damaged: the bytes of storage {key} are missing.")
        return self._records[key][: length * dtype.itemsize].view(np.ndarray).view(dtype)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A strided view of a storage; offset and strides count elements."""
    if len(shape) != len(stride) or min((offset, *shape, *stride)) < 0:
        raise CheckpointError(f"A tensor of shape {tuple(shape)} has the strides {tuple(stride)} at {offset}.")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if prod(shape) and last >= storage.size:
        raise CheckpointError(f"A tensor of shape {tuple(shape)} reaches beyond its storage of {storage.size} values.")
    itemsize = storage.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, tuple(step * itemsize for step in stride), writeable=False
    )


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data
