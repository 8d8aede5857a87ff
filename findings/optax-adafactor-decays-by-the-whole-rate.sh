#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# optax.adafactor's weight_decay_rate is not multiplied by the learning rate, as the weight_decay of adamw, lion and the
# others is: each step takes off that share of every weight. The 0.1 that is usual for adamw removes a tenth of the
# weights at each step, also while the learning rate is warmed up from 0, and the weights are gone after some fifty. It
# also covers all parameters unless weight_decay_mask says otherwise, scales of norms included.
#
# Seen, learning rate 0.001, rate 0.1, gradients 0: adamw's update of a weight of 1 is -0.0001, adafactor's -0.1.
# Multiply the rate by the peak learning rate, or decay outside of it.
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
weights = {"w": jnp.ones((4, 4))}


def update(optimizer):
    """Of a weight of 1 whose gradient is 0."""
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, weights), optimizer.init(weights), weights)
    return float(updates["w"][0, 0])


found = {
    "adamw": update(optax.adamw(1e-3, weight_decay=0.1)),
    "lion": update(optax.lion(1e-3, weight_decay=0.1)),
    "adafactor": update(optax.adafactor(1e-3, weight_decay_rate=0.1)),
}
print({name: round(value, 6) for name, value in found.items()})
assert abs(found["adamw"] + 1e-4) < 1e-7
assert abs(found["lion"] + 1e-4) < 1e-7
assert abs(found["adafactor"] + 0.1) < 1e-6
PY
