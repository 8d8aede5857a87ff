#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6 (seen 2026-11-29, Python 3.11).
#
# safetensors.numpy hands the library an array's address, shape and length, and does not look at its strides. A view that
# is laid out otherwise, such as a transposed weight, is therefore stored as the bytes that lie there: the file has the
# right name, shape and dtype, and other values. Nothing is raised or logged. (The docstring asks for contiguous arrays;
# safetensors.torch refuses the same thing with an error.) Converting between layouts by `.T` is what one does with the
# weights of linear layers, so that a whole converted model can come out wrong.
#
# Seen: "as it is: False, made contiguous: True". Pass every array through numpy.ascontiguousarray.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from safetensors.numpy import load, save

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
read = load(save({"view": weight.T, "copy": np.ascontiguousarray(weight.T)}))
same = {name: bool((array == weight.T).all()) for name, array in read.items()}
print(f"as it is: {same['view']}, made contiguous: {same['copy']}")
assert read["view"].shape == (3, 2)
assert same == {"view": False, "copy": True}, same
# What was stored is the memory of the array that the view looks at.
assert read["view"].ravel().tolist() == weight.ravel().tolist()
PY
