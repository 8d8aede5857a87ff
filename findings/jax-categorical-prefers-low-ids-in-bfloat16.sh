#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# jax.random.categorical adds noise to the logits and takes the largest, and draws the noise in the logits' own dtype.
# bfloat16 has so few values that over a vocabulary many entries get the same largest noise; the first of them wins. With
# 50,257 equal logits the drawn ids should be 25,128 on average; they are 129, and 2,000 draws meet 427 ids instead of
# nearly 2,000. With float16 it is 1,011. Real logits have the same fault to a lesser degree: among about equally likely
# tokens those with low ids come out too often. Models whose head computes in bfloat16 hand over just such logits.
#
# Cast the logits to float32 before sampling.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
vocabulary, draws = 50257, 2000
means = {}
for dtype in ("float32", "float16", "bfloat16"):
    logits = jnp.zeros(vocabulary, dtype)
    ids = jax.random.categorical(jax.random.key(0), logits, shape=(draws,))
    means[dtype] = float(ids.mean())
    print(f"{dtype}: mean id {means[dtype]:.0f} of {vocabulary}, {len(set(ids.tolist()))} different ids in {draws} draws")
# The standard error of the mean is 324, so that five of them allow 0.47 to 0.53.
assert 0.46 < means["float32"] / vocabulary < 0.54, means
assert means["float16"] / vocabulary < 0.1, means
assert means["bfloat16"] / vocabulary < 0.02, means
PY
