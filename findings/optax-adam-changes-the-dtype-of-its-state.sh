#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# adamw().init() gives both moments the weights' dtype. update() keeps it for the second moment, while the first takes
# the wider one of weights and gradients: bfloat16 weights with float32 gradients (summed over micro-batches, say) have a
# float32 first moment from the second step on. A jitted step is compiled twice and cannot reuse the donated buffer, a
# lax.scan over steps is refused, and a checkpoint's dtypes depend on whether it was written before the first step.
#
# Seen: bfloat16, then float32; two compilations. Cast the gradients to the weights' dtype, or give mu_dtype.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

assert optax.__version__ == "0.2.8", optax.__version__


def run(**options):
    """The dtypes of both moments after 0, 1 and 2 steps, and how often the step was traced."""
    adam, traced = optax.adamw(1e-3, **options), []

    @jax.jit
    def step(weights, state):
        traced.append(1)
        updates, state = adam.update(jax.tree.map(lambda w: w.astype(jnp.float32), weights), state, weights)
        return optax.apply_updates(weights, updates), state

    weights = {"w": jnp.ones(4, jnp.bfloat16)}
    state = adam.init(weights)
    dtypes = [(str(state[0].mu["w"].dtype), str(state[0].nu["w"].dtype))]
    for _ in range(2):
        weights, state = step(weights, state)
        dtypes.append((str(state[0].mu["w"].dtype), str(state[0].nu["w"].dtype)))
    assert weights["w"].dtype == jnp.bfloat16
    return dtypes, len(traced)


for options in ({}, {"mu_dtype": "bfloat16"}):
    print(options, *run(**options))
bfloat = ("bfloat16", "bfloat16")
assert run() == ([bfloat, ("float32", "bfloat16"), ("float32", "bfloat16")], 2)
assert run(mu_dtype="bfloat16") == ([bfloat] * 3, 1)
PY
