#!/usr/bin/env bash
# transformers 5.23.0 (seen 2026-11-28, Python 3.11).
#
# A configuration keeps the dict that is passed as rope_parameters, and completes it: base and original context of this
# model are written into the caller's own dict. If the same dict is passed to a second configuration with another
# rope_theta, the base is already there, and the argument is ignored: the second model rotates with the first one's base
# and counts its stretching from the first one's context, without an error.
#
# Pass a copy to each configuration.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cat > "$folder/share.py" <<'PY'
from transformers import LlamaConfig, __version__

assert __version__ == "5.23.0", __version__
stretched = {"rope_type": "yarn", "factor": 4.0}
LlamaConfig(rope_parameters=stretched, max_position_embeddings=8192, rope_theta=10000.0)
print("the caller's dict after the first configuration:", stretched)
assert stretched["rope_theta"] == 10000.0
assert stretched["original_max_position_embeddings"] == 8192

second = LlamaConfig(rope_parameters=stretched, max_position_embeddings=2048, rope_theta=500000.0)
copied = {"rope_type": "yarn", "factor": 4.0}
alone = LlamaConfig(rope_parameters=copied, max_position_embeddings=2048, rope_theta=500000.0)
print("base of a second one that asks for 500000:", second.rope_parameters["rope_theta"])
print("with a dict of its own:", alone.rope_parameters["rope_theta"])
assert second.rope_parameters["rope_theta"] == 10000.0
assert alone.rope_parameters["rope_theta"] == 500000.0
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" "$folder/share.py"
