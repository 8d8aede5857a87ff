#!/usr/bin/env bash
# tensorboardX 2.6.5 (seen 2026-11-29, Python 3.11).
#
# The value of a scalar in TensorBoard's event files is a float32 (only the step is an integer). add_scalar() takes any
# number and rounds it: counts above 16,777,216, which a training run's tokens pass within its first minutes, lose their
# last digits, and a curve of the tokens or of the samples moves in jumps. Differences of neighbouring points, such as a
# throughput that is computed from the file, are wrong by more the longer the run.
#
# Seen: 20,000,001 is stored as 20,000,000. Pass the tokens as global_step, or write millions of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorboardX==2.6.5
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import struct
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

with SummaryWriter("events") as writer:
    writer.add_scalar("tokens", 20_000_001, 20_000_001)
(file,) = Path("events").iterdir()
data, at, found = file.read_bytes(), 0, []
while at < len(data):  # length, its checksum, the event, its checksum
    (length,) = struct.unpack_from("<Q", data, at)
    event = Event.FromString(data[at + 12 : at + 12 + length])
    found += [(event.step, value.simple_value) for value in event.summary.value]
    at += 16 + length
print("step, value:", found)
assert found == [(20_000_001, 20_000_000.0)]
PY
