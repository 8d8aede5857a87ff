#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, numpy 2.2.6, g++ (seen 2026-11-30, CPU, 2 cores).
#
# XLA gives a custom call its thread pool (xla::ffi::ThreadPool), whose threads watch for tasks for a moment and then
# sleep. A task that does nothing, waited for by the caller, takes 0.4 to 2 microseconds right behind another one, and 40
# to 105 when the last one is 100 microseconds ago (medians of several runs). A custom call of 20 microseconds then gains
# nothing from a second of its threads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
include=$("$folder/venv/bin/python" -c "import jaxlib; print(jaxlib.__path__[0] + '/include')")
cat > "$folder/calls.cc" <<'CC'
#include <atomic>
#include <chrono>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Numbers = ffi::Buffer<ffi::F32>;

using Clock = std::chrono::steady_clock;

// Waits for so many microseconds, then until the pool has run a task; y is how long that took.
ffi::Error hand_over(ffi::ThreadPool pool, Numbers x, ffi::Result<Numbers> y) {
  const auto begin = Clock::now() + std::chrono::microseconds(int(x.typed_data()[0]));
  while (Clock::now() < begin) {
  }
  std::atomic<bool> done{false};
  pool.Schedule([&done] { done = true; });
  while (!done) {
  }
  y->typed_data()[0] = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(HandOver, hand_over, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Numbers>().Ret<Numbers>());
CC
g++ -std=c++17 -O2 -w -shared -fPIC "-I$include" "$folder/calls.cc" -o "$folder/calls.so"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/calls.so" <<'PY'
import ctypes
import sys

import jax
import jax.numpy as jnp
import numpy as np

assert jax.__version__ == "0.10.2", jax.__version__
handler = ctypes.CDLL(sys.argv[1]).HandOver
jax.ffi.register_ffi_target("HandOver", jax.ffi.pycapsule(handler), platform="cpu")
call = jax.ffi.ffi_call("HandOver", jax.ShapeDtypeStruct((1,), jnp.float32))
CALLS = 200


@jax.jit
def chain(gap):
    times = [call(gap)]
    for _ in range(CALLS - 1):  # each waits for the one before
        times.append(call(gap + 0 * times[-1]))
    return jnp.stack(times[1:])


microseconds = {}
for gap in (0, 10, 100):
    times = [np.asarray(chain(jnp.full(1, gap, jnp.float32))) for _ in range(20)]
    microseconds[gap] = float(np.median(times[1:]))
    print(f"{gap} µs after the last one: {microseconds[gap]:.1f} µs")
assert microseconds[100] > 10 * microseconds[0]
PY
