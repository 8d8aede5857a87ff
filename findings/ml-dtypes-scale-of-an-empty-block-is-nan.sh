#!/usr/bin/env bash
# ml_dtypes 0.6.0, numpy 2.4.6, torch 2.13.0 (seen 2026-11-29, Python 3.11).
#
# The formats with a scale for each block (MXFP4, MXFP8) store it as float8_e8m0fnu, a power of two: no zero, no sign.
# Where a block's largest value is 0, as in padded rows, pruned weights or unused experts, ml_dtypes makes the scale
# NaN, and with it the whole block; torch gives the smallest power, with which the zeros stay zeros. A converter that is
# right in torch fills such rows with NaN when it is ported to JAX. The elements have the opposite fault: float4_e2m1fn
# has no NaN, and ml_dtypes stores one as -0, so that a weight that was NaN is an ordinary number from then on.
#
# Seen, the scale of 0: NaN in ml_dtypes, 5.9e-39 in torch; NaN as float4_e2m1fn: -0. Replace a scale of 0 by 1 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6 torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
import torch

block = np.zeros(32, np.float32)
largest = np.abs(block).max(keepdims=True)
scale = largest.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
torchs = torch.tensor(largest).to(torch.float8_e8m0fnu).float().numpy()
element = np.array([np.nan], np.float32).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
print(f"scale of zeros: {scale[0]}, in torch {torchs[0]:.2g}; an element of NaN: {element[0]}")
assert np.isnan(scale[0])
assert torchs[0] == 2.0**-127
assert (block / torchs * torchs == 0).all()
assert element[0] == 0 and np.signbit(element[0])
for value in (1.0, 2.0, 0.5):  # where there is something to scale, both have it
    assert float(np.float32(value).astype(ml_dtypes.float8_e8m0fnu)) == value
    assert float(torch.tensor(value).to(torch.float8_e8m0fnu)) == value
PY
