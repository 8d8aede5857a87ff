# /// script
# requires-python = ">=3.11"
# dependencies = ["guidellm==0.8.1", "torch==2.13.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""guidellm, by its command line, out of the box: three requests one after the other."""

import os
import subprocess
import tempfile

with tempfile.TemporaryDirectory() as directory:
    command = [
        *("guidellm", "run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={os.environ['SERVER']},api_key={os.environ['OPENAI_API_KEY']}"),
        *("--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=3"),
        *("--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=8"),
        *("--tokenizer", f"kind=hf_auto,model={os.environ['MODEL']}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stdout, done.stdout
