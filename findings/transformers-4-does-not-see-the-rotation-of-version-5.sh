#!/usr/bin/env bash
# transformers 5.23.0 and 4.57.1 (seen 2026-11-29, Python 3.11).
#
# transformers 5 writes base and stretching of the rotary embedding to config.json as rope_parameters. Version 4.57,
# which many programs are pinned to, knows the file's other entries and takes this one for an unknown attribute: it
# reads the model with a base of 10000 and no stretching, without an error or a warning. Short texts come out sensible,
# longer ones worse and worse. The file does name the version that wrote it.
#
# Seen, for a base of 500000, stretched as llama3: 10000.0 and None. With rope_theta and rope_scaling beside the new
# entry both versions read the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.23.0 4.57.1; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check transformers==$version
done
cd "$folder"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
5.23.0/bin/python - <<'PY'
import json
from pathlib import Path

from transformers import LlamaConfig

bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
rotation = {"rope_type": "llama3", "factor": 8.0, **bounds}
config = LlamaConfig(rope_parameters={"rope_theta": 500000.0, **rotation}, max_position_embeddings=65536)
config.save_pretrained("written")
both = json.loads(Path("written/config.json").read_text()) | {"rope_theta": 500000.0, "rope_scaling": rotation}
Path("both").mkdir()
Path("both/config.json").write_text(json.dumps(both))
PY
cat > read.py <<'PY'
from transformers import LlamaConfig, __version__

for name in ("written", "both"):
    config = LlamaConfig.from_pretrained(name)
    if __version__ == "4.57.1":
        base, stretching = config.rope_theta, (config.rope_scaling or {}).get("rope_type")
    else:
        base, stretching = config.rope_parameters["rope_theta"], config.rope_parameters["rope_type"]
    print(f"{__version__}, {name}: {base}, {stretching}")
PY
{ 5.23.0/bin/python read.py; 4.57.1/bin/python read.py; } | tee read.txt
grep -qx '5.23.0, written: 500000.0, llama3' read.txt
grep -qx '5.23.0, both: 500000.0, llama3' read.txt
grep -qx '4.57.1, written: 10000.0, None' read.txt
grep -qx '4.57.1, both: 500000.0, llama3' read.txt
