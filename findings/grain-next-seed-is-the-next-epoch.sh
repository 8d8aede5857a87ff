#!/usr/bin/env bash
# grain 0.2.18 (seen 2026-11-29, Python 3.11).
#
# MapDataset.shuffle(seed) orders epoch e by the number seed + e. So the seeds 0, 1, 2 that one takes for repeated runs,
# or for several datasets of one mixture, do not give independent orders: the run of seed 1 begins with the order that
# the run of seed 0 has in its second epoch, and so on along the diagonal. A spread that is measured over such seeds is
# that of the same few orders; two datasets of one length, with neighbouring seeds, meet in the same pairs one epoch
# later.
#
# Seen: seed 1, epoch 0 is seed 0, epoch 1. A hash of the seed, such as numpy.random.SeedSequence gives, has no
# neighbours. MapDataset.seed(0).shuffle() has none either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import grain

dataset = grain.MapDataset.range(1000)


def order(dataset, epoch):
    return [int(dataset[epoch * 1000 + i]) for i in range(1000)]


passed = {seed: [order(dataset.shuffle(seed=seed), epoch) for epoch in range(3)] for seed in range(3)}
derived = {seed: [order(dataset.seed(seed).shuffle(), epoch) for epoch in range(3)] for seed in range(3)}
for seed, epochs in passed.items():
    print(f"shuffle(seed={seed}):", *(epoch[:4] for epoch in epochs))
assert passed[0][0] != passed[0][1]
assert passed[1][:2] == passed[0][1:]
assert passed[2][:2] == passed[1][1:]
assert derived[1][:2] != derived[0][1:]
PY
