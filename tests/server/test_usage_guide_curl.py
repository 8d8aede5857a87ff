"""The curl lines of the usage guide, as they are written there but for the port."""

import json
import shutil
import subprocess

import pytest

from tests.server.live import Server

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")

STREAM = r"""
curl -X POST "http://127.0.0.1:8000/generate" \
     -H "Content-Type: application/json" \
     -d '{"prompt": "Tell me a story", "stream": true}'
"""
CHAT_BY_KEY = r"""
curl -X POST "http://localhost:8000/v1/chat/completions" \
     -H "X-API-Key: your-key" \
     -H "Content-Type: application/json" \
     -d '{"messages": [{"role": "user", "content": "hi"}]}'
"""
CHAT_BY_BEARER = CHAT_BY_KEY.replace("X-API-Key: your-key", "Authorization: Bearer your-key")
METRICS = "curl http://127.0.0.1:8000/metrics"


def run(server: Server, command: str) -> str:
    port = server.url.rsplit(":", 1)[1]
    done = subprocess.run(
        ["bash", "-c", command.replace(":8000", f":{port}")], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_a_stream(server: Server) -> None:
    assert run(server, STREAM).strip().endswith("data: [DONE]")


@pytest.mark.parametrize("command", [CHAT_BY_KEY, CHAT_BY_BEARER])
def test_a_chat(server: Server, command: str) -> None:
    answer = json.loads(run(server, command))
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["model"] == "llm"


def test_metrics(server: Server) -> None:
    assert "llm_num_requests_running 0.0" in run(server, METRICS)
