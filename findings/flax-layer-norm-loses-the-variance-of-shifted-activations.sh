#!/usr/bin/env bash
# flax 0.12.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# nnx.LayerNorm computes the variance as mean(x²) − mean(x)² unless it is told use_fast_variance=False. In float32 the
# difference has no correct digit once the mean is some thousand times the standard deviation. Where it comes out as 0 or
# less the result is divided by sqrt(epsilon), and is a thousand times too large. The exact formula, which other
# frameworks use, gives a standard deviation of 1 as it should. A model whose activations share a large offset, trained
# with the exact formula, is computed wrongly here.
#
# Seen, for values of standard deviation 1 around 0, 100 and 10000: 1.000, 1.000 and 997.558; with
# use_fast_variance=False 1.000 each time. Pass use_fast_variance=False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import flax
import jax.numpy as jnp
import numpy as np
from flax import nnx

assert flax.__version__ == "0.12.8", flax.__version__
noise = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)


def spread(mean, **options):
    """The standard deviation of what the layer gives, which should be 1."""
    return float(nnx.LayerNorm(4096, rngs=nnx.Rngs(0), **options)(jnp.asarray(noise + np.float32(mean))).std())


for mean in (0, 100, 10000):
    fast, exact = spread(mean), spread(mean, use_fast_variance=False)
    print(f"values around {mean}: {fast:.3f}, with use_fast_variance=False {exact:.3f}")
    assert abs(exact - 1) < 1e-3
    assert (abs(fast - 1) < 1e-3) == (mean < 10000)
assert abs(spread(10000) - 1) > 0.5
PY
