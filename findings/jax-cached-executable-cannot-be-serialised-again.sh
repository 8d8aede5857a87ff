#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-28, CPU).
#
# An executable can be written to a file with jax.experimental.serialize_executable and loaded by another process, which
# then neither traces nor compiles. That works for an executable that this process has compiled. Where JAX's persistent
# compilation cache is on and already has the program, `compile()` gives an executable that runs as it should and is
# serialised without an error, but the file lacks the code of its functions: whoever loads it gets an error, "NOT_FOUND:
# Function … not found", at loading or at the first call. So the same three lines write a good file at a first start and
# a useless one at every later start.
#
# Who stores executables must compile what is to be stored past that cache (another function name is enough).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > "$folder/store.py" <<'PY'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import serialize

assert jax.__version__ == "0.10.2", jax.__version__
compiled = jax.jit(lambda x: jnp.tanh(x) * x + 1).lower(jnp.arange(64.0)).compile()
assert abs(float(compiled(jnp.arange(64.0))[1]) - 1.7615942) < 1e-6  # it runs, wherever it came from
with open(sys.argv[1], "wb") as file:
    pickle.dump(serialize(compiled), file)
PY
cat > "$folder/load.py" <<'PY'
import pickle
import sys

import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load

try:
    with open(sys.argv[1], "rb") as file:
        result = float(deserialize_and_load(*pickle.load(file))(jnp.arange(64.0))[1])
    print("works" if abs(result - 1.7615942) < 1e-6 else f"gives {result}")
except Exception as error:
    print("lacks code" if "not found" in str(error) else repr(error))
PY
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$folder/cache"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
python="$folder/venv/bin/python"
"$python" "$folder/store.py" "$folder/first"
first=$("$python" "$folder/load.py" "$folder/first")
"$python" "$folder/store.py" "$folder/second"
second=$("$python" "$folder/load.py" "$folder/second")
echo "stored after it was compiled: $first; stored after JAX's own cache had it: $second"
test "$first" = "works"
test "$second" = "lacks code"
