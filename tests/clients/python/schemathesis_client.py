# /// script
# requires-python = ">=3.11"
# dependencies = ["schemathesis==4.32.5"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Schemathesis over /openapi.json: all phases, valid and invalid data, with and without the key.

One check is left out: that whatever fits the schemas is accepted. No schema can say that a token must be one of the
served model's, that prompt and completion must fit its context, or that a choice names a tool of the same request.
"""

import os
import subprocess
import tempfile

command = [
    *("schemathesis", "run", f"{os.environ['UNRECORDED']}/openapi.json"),
    *("--header", f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}"),
    *("--request-timeout", "300"),  # an answer without a limit takes the whole context
    *("--mode", "all", "--max-examples", "50", "--continue-on-failure", "--exclude-checks", "positive_data_acceptance"),
]
with tempfile.TemporaryDirectory() as directory:
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
assert done.returncode == 0, done.stdout + done.stderr
