"""Fields that ask for nothing, as real clients send them unprompted, change nothing."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.tiny import RECITED

NEUTRAL = json.loads((Path(__file__).parents[1] / "fixtures/server/neutral_fields.json").read_text(encoding="utf-8"))
ROUTES = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Say"}]}),
    "completions": ("/v1/completions", {"prompt": "Say"}),
}
ONE_BY_ONE = [(route, name) for route in ROUTES for name in NEUTRAL[route]]


def text(http: httpx.Client, route: str, **fields: Any) -> str:
    path, body = ROUTES[route]
    response = http.post(path, json={**body, "temperature": 0, **fields})
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    return " " + choice["message"]["content"] if route == "chat" else choice["text"]


@pytest.mark.parametrize("route", ROUTES)
def test_all_at_once(http: httpx.Client, route: str) -> None:
    assert text(http, route, **NEUTRAL[route]) == RECITED


@pytest.mark.parametrize("route", ROUTES)
def test_all_at_once_in_a_stream(http: httpx.Client, route: str) -> None:
    path, body = ROUTES[route]
    response = http.post(path, json={**body, **NEUTRAL[route], "temperature": 0, "stream": True})
    assert response.status_code == 200
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("route", "name"), ONE_BY_ONE)
def test_each_alone(http: httpx.Client, route: str, name: str) -> None:
    assert text(http, route, **{name: NEUTRAL[route][name]}) == RECITED


def test_a_top_p_of_0_is_greedy(http: httpx.Client) -> None:
    texts = {text(http, "completions", temperature=2, top_p=0, max_tokens=20) for _ in range(3)}
    assert texts == {RECITED}
