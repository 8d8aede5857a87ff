#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# Since jax_threefry_partitionable is on by default, jax.random.split(key, n)[i] is jax.random.fold_in(key, i). Both are
# said to derive new keys, and look like two ways that do not meet. A program that splits a key for its parts (weights,
# data, dropout) and elsewhere folds the number of the step or of the layer into the same one draws the same numbers
# twice: step 0 has the key of the first part, step 1 that of the second. With the flag off, as it was for years, the
# keys differ.
#
# Seen: 3 of 3 keys equal, none with the flag off. Fold in a number that is no count, such as a hash of the purpose's
# name, before any counting.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax

assert jax.__version__ == "0.10.2", jax.__version__


def equal():
    """How many of three keys that are split off are those of folding in 0, 1, 2."""
    key = jax.random.key(0)
    folded = [jax.random.fold_in(key, i) for i in range(3)]
    return sum(bool((a == b).all()) for a, b in zip(jax.random.split(key, 3), folded, strict=True))


partitionable = equal()
with jax.threefry_partitionable(False):
    before = equal()
print(f"equal keys: {partitionable} of 3, with jax_threefry_partitionable off {before}")
assert partitionable == 3
assert before == 0
PY
