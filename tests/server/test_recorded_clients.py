"""Every request that real clients have sent (`make test-clients` records them) is answered as it was then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.model import KEY, save_client_model
from tests.server.live import running

RECORDS = sorted((Path(__file__).parent / "clients").glob("*.json"))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = save_client_model(tmp_path_factory.mktemp("models") / "clients")
    with (
        running(model_path=model, default_max_tokens="context", api_key=KEY) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_what_a_client_sends_is_understood(http: httpx.Client, record: Path) -> None:
    for request in json.loads(record.read_text(encoding="utf-8")):
        body = request.get("body")
        key = {} if request["status"] == 401 else {"X-API-Key": KEY}  # keys are not recorded
        answer = http.request(request["method"], request["path"], json=body, headers=request["headers"] | key)
        assert answer.status_code == request["status"], (body, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
        elif isinstance(body, dict) and body.get("stream"):
            check_stream(request["path"], answer)
        elif request["path"] in FIELDS:
            assert FIELDS[request["path"]] <= answer.json().keys()


FIELDS: dict[str, set[str]] = {
    "/v1/chat/completions": {"id", "object", "created", "model", "choices", "usage"},
    "/v1/completions": {"id", "object", "created", "model", "choices", "usage"},
    "/v1/responses": {"id", "object", "created_at", "model", "output", "status", "usage"},
    "/v1/messages": {"id", "type", "role", "model", "content", "stop_reason", "usage"},
    "/v1/embeddings": {"object", "data", "model", "usage"},
    "/v1/models": {"object", "data"},
}


def check_stream(path: str, answer: httpx.Response) -> None:
    """Its last event is the one that a client waits for."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames: list[Any] = [frame for frame in answer.text.split("\n\n") if frame]
    ends = {"/v1/responses": "event: response.completed", "/v1/messages": "event: message_stop"}
    assert frames[-1].startswith(ends.get(path, "data: [DONE]"))


def test_there_are_records() -> None:
    assert len(RECORDS) >= 14
