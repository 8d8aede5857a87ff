#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# optax.global_norm adds up the squares in the gradients' dtype. For float16 that sum is infinite from a norm of 256 on,
# though every gradient is small and finite. clip_by_global_norm divides by it: the step's updates are all zero. Nothing
# looks wrong: a check for NaN or infinity in what comes out of the clipping passes, and the run stands still at each such
# step. Scaled losses, which float16 needs, make such norms the usual case.
#
# Seen, for 100,000 gradients of 10: norm inf and updates 0; after a cast to float32 norm 3162.3 and updates 0.00316.
# Cast the gradients to float32, unscale them, and only then clip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax.numpy as jnp
import optax

assert optax.__version__ == "0.2.8", optax.__version__
clip = optax.clip_by_global_norm(1.0)
seen = {}
for dtype in ("float16", "float32"):
    gradients = {"w": jnp.full(100_000, 10.0, dtype)}
    updates, _ = clip.update(gradients, clip.init(gradients))
    seen[dtype] = (float(optax.global_norm(gradients)), float(updates["w"].min()), float(updates["w"].max()))
    print(f"{dtype}: norm {seen[dtype][0]:.1f}, updates from {seen[dtype][1]:.5f} to {seen[dtype][2]:.5f}")
assert seen["float16"] == (float("inf"), 0.0, 0.0)
norm, low, high = seen["float32"]
assert abs(norm - 3162.2776) < 0.1
assert low == high
assert abs(high - 10 / 3162.2776) < 1e-6
PY
