#!/usr/bin/env bash
# grain 0.2.18 (seen 2026-11-29, Python 3.11).
#
# MapDataset.shuffle() has another order in each epoch, and an index beyond the end means the next epoch. A slice passes
# its epoch on to what it slices: dataset.shuffle(seed)[:8] are the eight that come first in this epoch, not eight
# elements. So the usual split, shuffle and then cut into a part for training and one to validate on, holds for one
# epoch. From the second on the training part reads what is validated on, and nobody is told; the validation loss only
# looks better.
#
# Seen: in epoch 1 two of the two held-out elements are in the training part. Cut first and shuffle the parts, or
# shuffle the source itself once, by numpy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import grain

dataset = grain.MapDataset.range(10)


def epochs(part, count):
    """The elements of a part in each epoch."""
    return [[int(part[epoch * len(part) + i]) for i in range(len(part))] for epoch in range(count)]


shuffled = dataset.shuffle(seed=0)
train, validation = epochs(shuffled[:8], 2), epochs(shuffled[8:], 1)[0]
print("cut after the shuffle: held out", validation, "trained on", train)
assert not set(train[0]) & set(validation)
assert set(train[1]) & set(validation) == set(validation)

train, validation = epochs(dataset[:8].shuffle(seed=0), 2), epochs(dataset[8:].shuffle(seed=0), 1)[0]
print("cut before it: held out", validation, "trained on", train)
assert not (set(train[0]) | set(train[1])) & set(validation)
PY
