#!/usr/bin/env bash
# torch 2.13.0, jax 0.10.2, jaxlib 0.10.2, ml_dtypes 0.6.0 (seen 2026-11-29, CPU).
#
# float8_e4m3fn ends at 448 and has no infinity. What is beyond becomes NaN in JAX and in ml_dtypes. torch gives 448,
# for an infinity too: an activation that has overflowed is stored as an ordinary number, and a check for infinite
# values after the conversion passes. Two runs that should agree do not, and only one of them is stopped. For
# float8_e5m2, which has an infinity, both agree.
#
# Seen, for 448, 500 and infinity: 448, NaN and NaN in JAX; 448, 448 and 448 in torch. Clip before converting in JAX;
# look for infinities before converting in torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

assert jax.__version__ == "0.10.2", jax.__version__
values = np.array([448, 500, np.inf, -np.inf], np.float32)
found = {}
for name in ("float8_e4m3fn", "float8_e5m2"):
    jaxs = np.asarray(jnp.asarray(values).astype(name).astype(jnp.float32))
    numpys = values.astype(getattr(ml_dtypes, name)).astype(np.float32)
    torchs = torch.tensor(values).to(getattr(torch, name)).float().numpy()
    assert np.array_equal(jaxs, numpys, equal_nan=True)
    found[name] = jaxs.tolist(), torchs.tolist()
    print(f"{name}: jax {found[name][0]}, torch {found[name][1]}")
jaxs, torchs = found["float8_e4m3fn"]
assert jaxs[0] == 448 and np.isnan(jaxs[1:]).all()
assert torchs == [448, 448, 448, -448]
assert found["float8_e5m2"][0] == found["float8_e5m2"][1]
PY
