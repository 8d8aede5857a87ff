#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# The keys of JAX's persistent compilation cache depend on where the cache lies: since XLA keeps caches of its own in a
# folder below it, that folder's path is one of the compiler's options, and these are part of the key. A cache that is
# copied into an image, mounted elsewhere or moved has every program and finds none, on the CPU too, where XLA has no such
# caches. All is compiled again and stored a second time; nothing is logged.
#
# Seen: a second process in the same folder finds its program, one with a copy of the folder does not. Set
# JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none before the cache is filled: then it does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > "$folder/compile.py" <<'PY'
import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))
jax.jit(lambda x: jnp.tanh(x) * x + 1)(jnp.arange(64.0)).block_until_ready()
outcomes = {event for event in events if event in ("cache_hits", "cache_misses")}
print("found" if outcomes == {"cache_hits"} else "compiled" if outcomes == {"cache_misses"} else outcomes)
PY
export JAX_PLATFORMS=cpu JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
compile() { JAX_COMPILATION_CACHE_DIR="$folder/$1" "$folder/venv/bin/python" "$folder/compile.py"; }

outcomes() {
  first=$(compile "$1")
  second=$(compile "$1")
  cp -r "$folder/$1" "$folder/$1-copy"
  echo "first: $first, second: $second, in a copy of the folder: $(compile "$1-copy")"
}
usual=$(outcomes usual)
without=$(JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none outcomes without)
echo "as it is: $usual"
echo "without XLA's caches: $without"
test "$usual" = "first: compiled, second: found, in a copy of the folder: compiled"
test "$without" = "first: compiled, second: found, in a copy of the folder: found"
