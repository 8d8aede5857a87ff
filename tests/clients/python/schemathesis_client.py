# /// script
# requires-python = ">=3.11"
# dependencies = ["schemathesis==4.32.5"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Schemathesis over /openapi.json: all phases, valid and invalid data as they are generated, with and without the key.

All of its checks, of which one is replaced: see schemathesis_checks.py.
"""

import os
import subprocess
import tempfile
from pathlib import Path

command = [
    *("schemathesis", "run", f"{os.environ['EXPLORED']}/openapi.json"),
    *("--header", f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}"),
    *("--request-timeout", "300", "--mode", "all", "--max-examples", os.environ.get("EXAMPLES", "50")),
    *("--continue-on-failure", "--exclude-checks", "positive_data_acceptance"),
]
checks = Path(__file__).parent.parent / "schemathesis_checks.py"
with tempfile.TemporaryDirectory() as directory:
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(checks)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)
assert done.returncode == 0, done.stdout + done.stderr
