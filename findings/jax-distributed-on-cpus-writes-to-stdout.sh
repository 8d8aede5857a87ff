#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, Linux, two processes on CPUs).
#
# The processes of jax.distributed exchange arrays by Gloo where their devices are CPUs, and Gloo reports the connection on
# standard output, from C++: "[Gloo] Rank 0 is connected to 1 peer ranks. …". So a program whose standard output is data,
# such as one line of JSON, is broken as soon as it runs in several processes, and redirecting sys.stdout does not help.
#
# Write results to a file, or let descriptor 1 be standard error while JAX connects (os.dup2).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > "$folder/sum.py" <<'PY'
import contextlib
import io
import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

with contextlib.redirect_stdout(io.StringIO()):
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    total = float(multihost_utils.process_allgather(np.ones(2, np.float32)).sum())
print(json.dumps({"total": total}))
PY
export JAX_PLATFORMS=cpu
python="$folder/venv/bin/python"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
timeout 90 "$python" "$folder/sum.py" "$port" 1 > "$folder/second" &
timeout 90 "$python" "$folder/sum.py" "$port" 0 > "$folder/first"
wait $!
cat "$folder/first"
grep -q '^{"total": 4.0}$' "$folder/first"
grep -q '^\[Gloo\] Rank 0 is connected' "$folder/first"
grep -q '^\[Gloo\] Rank 1 is connected' "$folder/second"
