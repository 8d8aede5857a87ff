#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# jax.checkpoint makes the backward pass compute a layer's activations again. In the program that JAX hands to XLA they
# are there twice, kept apart by optimisation barriers. XLA's CPU backend removes the barriers and then finds that both
# are the same: for layers in a Python loop the compiled program is the one without jax.checkpoint, and needs the same
# memory. Where the layers are a lax.scan, forward and backward are two loops, nothing can be merged, and it saves what
# it should. So a measurement on a CPU says that rematerialisation is useless, or a run that relied on it does not fit.
#
# Seen, temporary memory without and with jax.checkpoint: 31.9 MB and 31.9 MB in a loop, 58.2 MB and 8.1 MB in a scan.
# Scan over the layers where their memory counts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
weights = jax.ShapeDtypeStruct((12, 64, 512), jnp.float32)
x = jax.ShapeDtypeStruct((1024, 64), jnp.float32)


def layer(x, w):
    return jnp.tanh(x @ w) @ w.T


def loop(layer):
    def loss(weights, x):
        for w in weights:
            x = layer(x, w)
        return (x**2).sum()

    return loss


def scan(layer):
    return lambda weights, x: (jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0] ** 2).sum()


def temporary(layers, layer):
    """Megabytes of temporary memory, and how often the program that is compiled, and what is compiled, have tanh."""
    lowered = jax.jit(jax.grad(layers(layer))).lower(weights, x)
    compiled = lowered.compile()
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return megabytes, lowered.as_text().count("stablehlo.tanh"), compiled.as_text().count(" tanh(")


results = {}
for layers in (loop, scan):
    for kind, one in (("plain", layer), ("checkpoint", jax.checkpoint(layer))):
        results[layers.__name__, kind] = temporary(layers, one)
        print(layers.__name__, kind, "%.1f MB, tanh: %d in the program, %d compiled" % results[layers.__name__, kind])
assert results["loop", "plain"][1:] == (12, 12)
assert results["loop", "checkpoint"][1] == 24
assert results["loop", "checkpoint"][2] == 12
assert abs(results["loop", "checkpoint"][0] / results["loop", "plain"][0] - 1) < 0.05
assert results["scan", "checkpoint"][0] < results["scan", "plain"][0] / 3
PY
