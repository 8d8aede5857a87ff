# /// script
# requires-python = ">=3.11"
# dependencies = ["schemathesis==4.32.5"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Schemathesis over /openapi.json: all phases and checks, valid and invalid data, with and without the key.

What no schema can say of a valid request is in schemathesis_hooks.py.
"""

import os
import subprocess
import tempfile
from pathlib import Path

command = [
    *("schemathesis", "run", f"{os.environ['UNRECORDED']}/openapi.json"),
    *("--header", f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}"),
    *("--request-timeout", "300"),  # an answer without a limit takes the whole context
    *("--mode", "all", "--max-examples", "50", "--continue-on-failure"),
]
hooks = Path(__file__).parent.parent / "schemathesis_hooks.py"
with tempfile.TemporaryDirectory() as directory:
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(hooks)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)
assert done.returncode == 0, done.stdout + done.stderr
