#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# optax.inject_hyperparams makes an optimiser's settings part of its state, so that the learning rate can be changed in
# a run. It stores all of them, also those that nobody means to change, in the dtype of the first leaf of the weights.
# In bfloat16 a b2 of 0.999 is 1: the second moment stays 0, its bias correction is 0 / 0, and every update is NaN.
# Where the first leaf happens to be a float32 scale the same model trains.
#
# Seen: b2 is 1 and the update NaN; with hyperparam_dtype=jnp.float32 the update is -0.001, the learning rate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

assert (optax.__version__, jax.__version__) == ("0.2.8", "0.10.2"), (optax.__version__, jax.__version__)
weights = {"w": jnp.ones(4, jnp.bfloat16)}


def step(weights, **options):
    """b2 as it is stored, and the first update of w."""
    optimizer = optax.inject_hyperparams(optax.adam, **options)(learning_rate=1e-3)
    state = optimizer.init(weights)
    updates, _ = optimizer.update(jax.tree.map(lambda x: 0.1 * x, weights), state, weights)
    return float(state.hyperparams["b2"]), float(updates["w"][0])


stored, update = step(weights)
scaled_stored, scaled_update = step({"a_scale": jnp.ones(4)} | weights)
wide_stored, wide_update = step(weights, hyperparam_dtype=jnp.float32)
print(f"b2 {stored}, update {update}; with a float32 leaf first {scaled_stored:.3f}, {scaled_update:.4f}")
print(f"with hyperparam_dtype=float32 {wide_stored:.3f}, {wide_update:.4f}")
assert stored == 1.0
assert update != update
assert abs(scaled_update + 1e-3) < 2e-5
assert abs(wide_update + 1e-3) < 2e-5
PY
