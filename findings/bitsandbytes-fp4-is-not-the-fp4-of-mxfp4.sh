#!/usr/bin/env bash
# bitsandbytes 0.50.2, torch 2.13.0, ml_dtypes 0.6.0 (seen 2026-11-29, CPU).
#
# bitsandbytes calls one of its two formats of four bits fp4, one sign, two exponent and one mantissa bit like the E2M1
# of MXFP4, NVFP4 and float4_e2m1fn. The values are others: scaled to a largest of 1, both have 1/6, 1/4, 1/3, 1/2, 2/3
# and 1, but where E2M1 has 1/12, bitsandbytes has 1/192. And its codes are in another order. So its weights cannot be
# repacked as E2M1 by any table without a loss, and an error that was measured with one says nothing of the other: of
# what lies about 1/12, a frequent size of weights, fp4 has no neighbour.
#
# Seen: 0.0052 instead of 0.0833, codes 0 … 7 for 0, 0.0052, 0.667, 1, 0.333, 0.5, 0.167, 0.25. Dequantise before
# converting.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  bitsandbytes==0.50.2 torch==2.13.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import bitsandbytes.functional as bnb
import ml_dtypes
import numpy as np
import torch

_, state = bnb.quantize_4bit(torch.linspace(-1, 1, 64), blocksize=64, quant_type="fp4")
codes = state.code[:8].tolist()
e2m1 = (np.arange(8, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32) / 6).tolist()
rounded = [[round(value, 4) for value in values] for values in (codes, e2m1)]
print("bitsandbytes:", rounded[0])
print("E2M1 / 6:    ", rounded[1])
assert rounded[0] == [0.0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25]
assert rounded[1] == [0.0, 0.0833, 0.1667, 0.25, 0.3333, 0.5, 0.6667, 1.0]

weights = torch.full((64,), 1 / 12)
weights[0] = 1
packed, state = bnb.quantize_4bit(weights, blocksize=64, quant_type="fp4")
back = float(bnb.dequantize_4bit(packed, state).flatten()[1])
print(f"1/12 beside a 1: {back:.4f}")
assert abs(back - 1 / 12) > 0.07
PY
