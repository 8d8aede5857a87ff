#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# With warmup_steps=0, as one turns a warm-up off, warmup_cosine_decay_schedule and warmup_exponential_decay_schedule
# begin at the peak. warmup_constant_schedule stays at the value that the warm-up would begin with, usually 0, for ever:
# it is a linear_schedule, and one of no steps is a constant of its first value. The run computes every step and changes
# nothing. There is a line of absl's log at the level INFO, which is not shown.
#
# Seen, from 0 to a peak of 1 in 0 steps, at step 100: 0.0 with a constant end, 1.0 with a decay that has not begun. Use
# join_schedules with constant_schedule, which gives 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import optax

assert optax.__version__ == "0.2.8", optax.__version__
schedules = {
    "constant": optax.warmup_constant_schedule(0.0, 1.0, 0),
    "cosine": optax.warmup_cosine_decay_schedule(0.0, 1.0, 0, 10**9),
    "exponential": optax.warmup_exponential_decay_schedule(0.0, 1.0, 0, 10**9, 0.5),
    "joined": optax.join_schedules([optax.linear_schedule(0.0, 1.0, 0), optax.constant_schedule(1.0)], [0]),
}
found = {name: [float(schedule(step)) for step in (0, 1, 100)] for name, schedule in schedules.items()}
for name, values in found.items():
    print(f"{name}: {values}")
assert found.pop("constant") == [0.0, 0.0, 0.0]
assert all(min(values) > 0.999 for values in found.values()), found
PY
