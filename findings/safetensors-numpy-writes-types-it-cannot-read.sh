#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6, ml_dtypes 0.6.0 (seen 2026-11-29, Python 3.11).
#
# numpy gets bfloat16 and the float8 types from ml_dtypes, and safetensors.numpy writes them all. Its two readers know
# less. load_file() reads bfloat16, but looks for float8 in numpy itself, where it is not: "AttributeError: module 'numpy'
# has no attribute 'float8_e4m3fn'". load(), for the same bytes in memory, has neither: "KeyError: 'BF16'". One such tensor
# keeps the reader from giving any tensor of the file, so that what was written without an error is found to be
# unreadable when it is needed. The file is whole.
#
# Read the bytes with safetensors.deserialize and view them as the header's type, or store float8 as uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
from safetensors import deserialize
from safetensors.numpy import load, load_file, save, save_file


def outcome(read, written):
    """The dtype of the tensor that is read, or the error's name."""
    try:
        return str(read(written)["x"].dtype)
    except (AttributeError, KeyError) as error:
        return type(error).__name__


outcomes = {}
for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
    ones = np.ones(4, name if name == "float16" else getattr(ml_dtypes, name))
    save_file({"x": ones}, "one.safetensors")
    outcomes[name] = (outcome(load_file, "one.safetensors"), outcome(load, save({"x": ones})))
    print(f"{name}: load_file() gives {outcomes[name][0]}, load() gives {outcomes[name][1]}")
    assert bytes(deserialize(save({"x": ones}))[0][1]["data"]) == ones.tobytes()  # what was written is right
assert outcomes == {
    "float16": ("float16", "float16"),
    "bfloat16": ("bfloat16", "KeyError"),
    "float8_e4m3fn": ("AttributeError", "KeyError"),
    "float8_e5m2": ("AttributeError", "KeyError"),
}, outcomes
PY
