#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, numpy 2.2.6 (seen 2026-11-28, CPU).
#
# The maximum of a row that holds a NaN is NaN in numpy and, for rows of a thousand values, in JAX. For a row as long as a
# vocabulary (50,257 float32 values) XLA's CPU backend gives the largest of the other values: the NaN is gone, inside jit
# and outside. A sampler that looks for NaN in the maximum of the logits, which costs nothing, does not see them; the sum
# and isnan do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

assert jax.__version__ == "0.10.2", jax.__version__


def maxima(length):
    """Of two rows, the first with a NaN in the middle."""
    rows = np.zeros((2, length), np.float32)
    rows[0, length // 2] = np.nan
    x = jnp.asarray(rows)
    return float(jnp.max(x, -1)[0]), float(jax.jit(lambda x: x.max(-1))(x)[0]), float(rows.max(-1)[0]), float(x.sum(-1)[0])


for length in (1000, 50257):
    plain, jitted, numpys, total = maxima(length)
    print(f"{length} values: max {plain}, in jit {jitted}, numpy {numpys}, sum {total}")
    assert np.isnan(numpys)
    assert np.isnan(total)
    assert np.isnan([plain, jitted]).all() == (length == 1000)
PY
