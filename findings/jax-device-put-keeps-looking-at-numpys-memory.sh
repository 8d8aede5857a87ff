#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6 (seen 2026-11-29, CPU).
#
# jax.device_put of a numpy array takes its memory as it is where the first byte's address is a multiple of 64 and
# copies it where it is not, which is up to numpy's allocator. A jitted function does the same with numpy arguments, and
# has usually not run yet when the call returns. So a loader that fills one buffer again and again, or an engine that
# updates a table in place between two steps, changes arrays that JAX was given before: always, never or sometimes, by
# the address. jnp.asarray copies.
#
# Seen, for an array that was 0 and is 1 afterwards: 1.0 from device_put and 0.0 from asarray where aligned, 0.0 from
# both where not. Hand over a fresh array each time, or a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

assert jax.__version__ == "0.10.2", jax.__version__


def zeros(offset):
    """16 float32 zeros, so many bytes behind a multiple of 64."""
    memory = np.zeros(64, np.float32)
    start = (offset - memory.ctypes.data) % 64 // 4
    return memory[start : start + 16]


def seen(place, offset):
    """The first value of JAX's array after numpy's has been filled with ones."""
    array = zeros(offset)
    placed = place(array).block_until_ready()
    array[:] = 1
    return float(placed[0])


found = {}
for name, offset in (("aligned", 0), ("not", 16)):
    found[name] = seen(jax.device_put, offset), seen(jnp.asarray, offset)
    print(f"{name}: device_put {found[name][0]}, asarray {found[name][1]}")
assert found == {"aligned": (1.0, 0.0), "not": (0.0, 0.0)}, found

# A jitted call that waits for a product: its small argument is changed after the call, before it is read.
weights = jnp.ones((1500, 1500))
summed = jax.jit(lambda weights, x: (weights @ weights).sum() * 0 + x.sum())
summed(weights, zeros(0)).block_until_ready()
x = zeros(0)
result = summed(weights, x)
x[:] = 1
print("sum of sixteen zeros, filled with ones after the call:", float(result))
assert float(result) == 16.0
PY
