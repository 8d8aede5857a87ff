# /// script
# requires-python = ">=3.11"
# dependencies = ["llm==0.36"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Simon Willison's llm, by its command line."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

KEY = os.environ["OPENAI_API_KEY"]
MODELS = """
- model_id: ours
  model_name: llm
  api_base: {}
  api_key_name: ours
  supports_schema: true
  supports_tools: true
"""

with tempfile.TemporaryDirectory() as home:
    Path(home, "extra-openai-models.yaml").write_text(MODELS.format(os.environ["OPENAI_BASE_URL"]))

    def llm(*arguments: str) -> str:
        command = [
            "llm",
            "prompt",
            "-m",
            "ours",
            "-o",
            "temperature",
            "0",
            "--key",
            os.environ["OPENAI_API_KEY"],
            "-n",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LLM_USER_PATH": home})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert llm("Hello!").strip()
    assert llm("Hello!", "--no-stream", "-s", "You recite.").strip()
    assert json.loads(llm("A city", "--schema", "name, days int")).keys() == {"name", "days"}
    tool = "def weather(city: str) -> str:\n    'The weather in a city.'\n    return city + ': sunny'"
    assert llm("Hello!", "--functions", tool).strip()
