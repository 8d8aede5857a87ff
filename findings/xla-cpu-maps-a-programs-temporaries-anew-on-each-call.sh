#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, numpy 2.2.6 (seen 2026-11-30, CPU, Linux with glibc 2.36).
#
# XLA's CPU client allocates a program's temporaries at each call and frees them behind it. Large ones are mapped anew, so
# every page is faulted in, and zeroed, at every call: 32,800 faults for 128 MB. The same work five times over inside one
# program faults them once, and takes 26 ms each in place of 62. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_, set to
# 1 GB and more, change nothing: glibc ignores a threshold of more than 32 MB. MALLOC_MMAP_MAX_=0 alone changes nothing
# either, since the arena of a thread has no place for so much. With one arena, no mapping and no trimming there is not a
# single fault, and five calls take as long as five times in one. Where the system gives huge pages to those who ask
# (transparent_hugepage is `madvise` or `always`), GLIBC_TUNABLES=glibc.malloc.hugetlb=1 has malloc ask for them: some 600
# faults a call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
cat >"$folder/faults.py" <<'PY'
import resource
import sys
import time

import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
PAGES = (64 << 20) // 4096


def work(x):
    there = jax.lax.optimization_barrier(x + 1)
    return there.max() + there[::-1].min()


def measured(run):
    """Page faults and milliseconds of a piece of work, of the quickest of ten runs of five pieces each."""
    run()
    best = faults = float("inf")
    for _ in range(10):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        faults = min(faults, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return faults / 5, 200 * best


x = jnp.zeros((2048, 8192))
once = jax.jit(work).lower(x).compile()
assert once.memory_analysis().temp_size_in_bytes // 4096 >= PAGES
inside = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda i, total: total + work(x + total), 0.0))
calls = measured(lambda: [once(x).block_until_ready() for _ in range(5)])
loop = measured(lambda: inside(x).block_until_ready())
print(f"five calls: {calls[0]:.0f} page faults each, {calls[1]:.1f} ms")
print(f"five times in one: {loop[0]:.0f} page faults each, {loop[1]:.1f} ms")
most = {"reused": PAGES / 100, "huge": PAGES / 20}
if sys.argv[1] == "anew":
    assert calls[0] >= 0.95 * PAGES and loop[0] < calls[0] / 3, (calls, loop)
else:
    assert calls[0] < most[sys.argv[1]], calls
PY
export JAX_PLATFORMS=cpu
python="$folder/venv/bin/python"
"$python" "$folder/faults.py" anew
MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 "$python" "$folder/faults.py" anew
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296 "$python" "$folder/faults.py" anew
MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296 "$python" "$folder/faults.py" reused
if grep -qs '\[always\]\|\[madvise\]' /sys/kernel/mm/transparent_hugepage/enabled; then
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 "$python" "$folder/faults.py" huge
fi
