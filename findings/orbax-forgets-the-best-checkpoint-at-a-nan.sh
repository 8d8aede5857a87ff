#!/usr/bin/env bash
# orbax-checkpoint 0.12.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# A CheckpointManager with best_fn and max_to_keep sorts the checkpoints by their metric and deletes the worst. A NaN is
# neither less nor greater than anything, so that sorting leaves it where it is: at the end, where the best ones stand.
# A loss of NaN is therefore the best, with best_mode "min" and "max" alike, and what is good goes in its stead; the
# losses behind it are the best in turn, each as it comes. When a run diverges, the checkpoint that one would go back to
# is deleted within max_to_keep saves.
#
# Seen, for the losses 3, 2, NaN, NaN, 2.5 and 2 to keep: the best are steps 2, 3 and 4 in turn, and step 1 is gone. Map
# NaN to the worst value in best_fn: then step 1 is kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import logging
import math
import os

import numpy as np
import orbax.checkpoint as ocp

logging.disable(logging.ERROR)
losses = [3.0, 2.0, math.nan, math.nan, 2.5]


def history(best_fn, mode="min"):
    """The best step and all that are left, after each save."""
    folder = os.path.abspath(f"{best_fn.__name__}-{mode}")
    options = ocp.CheckpointManagerOptions(max_to_keep=2, best_fn=best_fn, best_mode=mode)
    found = []
    with ocp.CheckpointManager(folder, options=options) as manager:
        for step, value in enumerate(losses):
            manager.save(step, args=ocp.args.StandardSave({"x": np.ones(1)}), metrics={"loss": value})
            manager.wait_until_finished()
            found.append((manager.best_step(), sorted(manager.all_steps())))
    return found


def loss(metrics):
    return metrics["loss"]


def mapped(metrics):
    return math.inf if math.isnan(metrics["loss"]) else metrics["loss"]


plain, largest, told = history(loss), history(loss, "max"), history(mapped)
for name, found in {"min": plain, "max": largest, "NaN mapped": told}.items():
    print(f"{name}:", ", ".join(f"best {best} of {steps}" for best, steps in found))
assert plain[1] == (1, [0, 1])
assert [best for best, _ in plain[2:]] == [2, 3, 4]
assert [best for best, _ in largest[2:]] == [2, 3, 4]
assert 1 not in plain[3][1]
assert told[-1][0] == 1
assert 1 in told[-1][1]
PY
