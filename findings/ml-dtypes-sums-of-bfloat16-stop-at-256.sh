#!/usr/bin/env bash
# ml_dtypes 0.6.0, numpy 2.4.6 (seen 2026-11-29, Python 3.11).
#
# numpy adds float16 up in pairs, and computes means of it in float32. For bfloat16 from ml_dtypes, which looks like any
# other dtype, it does neither: it adds one value after the other in bfloat16, where 256 + 1 is 256. The sum of a
# thousand ones is 256 and their mean 0.256, while a matrix product of the same array with itself is right. A mean loss,
# a norm or a check sum of weights that came from a JAX model by np.asarray is wrong with no sign of it.
#
# Seen, sum, mean and product of 1000 ones: 1000, 1 and 1000 in float16, 256, 0.256 and 1000 in bfloat16. Pass
# dtype=np.float32 to sum and mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np

found = {}
for dtype in (np.float16, ml_dtypes.bfloat16):
    ones = np.ones(1000, dtype)
    found[np.dtype(dtype).name] = [float(value) for value in (ones.sum(), ones.mean(), ones @ ones)]
wide = float(np.ones(1000, ml_dtypes.bfloat16).sum(dtype=np.float32))
for name, values in found.items():
    print(name, "sum, mean, product:", [round(value, 3) for value in values])
print("bfloat16, summed with dtype=np.float32:", wide)
assert found["float16"] == [1000.0, 1.0, 1000.0]
assert found["bfloat16"] == [256.0, 0.255859375, 1000.0], found
assert wide == 1000.0
PY
