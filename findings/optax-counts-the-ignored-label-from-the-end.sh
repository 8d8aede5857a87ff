#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# Data sets for language models mark the positions without a loss by the label -100, which other frameworks' losses leave
# out. optax.softmax_cross_entropy_with_integer_labels indexes with it: the label is counted from the end of the
# vocabulary, so that the model is trained to say token V - 100 at every such position. The loss is finite and falls. Only
# with a vocabulary of fewer than 100 is it NaN, as it is for a label that is too large.
#
# Seen: label -100 of 200 classes costs the same as label 100. Multiply the losses by (labels >= 0), and take the mean
# over those positions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
import optax

assert optax.__version__ == "0.2.8", optax.__version__


def loss(label, classes):
    logits = jnp.linspace(-1.0, 1.0, classes)
    return float(optax.softmax_cross_entropy_with_integer_labels(logits[None], jnp.array([label]))[0])


for label, classes in ((-100, 200), (100, 200), (200, 200), (-100, 50)):
    print(f"label {label} of {classes} classes: {loss(label, classes):.4f}")
assert loss(-100, 200) == loss(100, 200) > 0
assert np.isnan([loss(200, 200), loss(-100, 50)]).all()

# The gradient pulls towards that token: its logit is the only one whose gradient is negative.
gradient = jax.grad(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, jnp.array(-100)))(jnp.zeros(200))
assert np.flatnonzero(np.asarray(gradient) < 0).tolist() == [100]
PY
