#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, numpy 2.2.6 (seen 2026-11-30, CPU, Python 3.11).
#
# An aligned NumPy array becomes a JAX array on the CPU in place, by DLPack or by device_put. Where a running program is
# the last to use it, they part: what came by DLPack is given back by XLA's thread as soon as the program has run, through
# NumPy's deleter, for which that thread must get the interpreter's lock; what came by device_put is only noted down
# there, and given back by the next thread of Python's that calls JAX.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import queue
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np

assert jax.__version__ == "0.10.2", jax.__version__
SIZE = 1 << 20
x = jnp.eye(512)
run = jax.jit(lambda held, x: jax.lax.fori_loop(0, 30, lambda i, x: jnp.sin(x @ x), x).sum() + held[0])
jax.block_until_ready(run(jnp.zeros(SIZE, jnp.uint8), x))


def thread_that_gives_back(onto_device):
    memory = np.zeros(SIZE + 64, np.uint8)
    start = -memory.ctypes.data % 64
    freed = queue.Queue()
    weakref.finalize(memory, lambda: freed.put(threading.get_ident()))
    held = onto_device(memory[start : start + SIZE])
    assert held.unsafe_buffer_pointer() == memory.ctypes.data + start  # no copy
    del memory
    result = run(held, x)
    del held
    jax.block_until_ready(result)
    while True:
        try:
            return freed.get(timeout=1)
        except queue.Empty:
            jax.block_until_ready(jax.device_put(np.zeros(1)))


by_dlpack = thread_that_gives_back(jax.dlpack.from_dlpack)
by_device_put = thread_that_gives_back(jax.device_put)
print("by DLPack, the caller's thread:", by_dlpack == threading.get_ident())
print("by device_put, the caller's thread:", by_device_put == threading.get_ident())
assert by_dlpack != threading.get_ident() == by_device_put
PY
