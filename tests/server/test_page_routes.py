"""The files of the chat page over HTTP: of a server that wants a key and has no model yet."""

import asyncio
import re

import httpx
import pytest

from server.app import create_app
from server.lifecycle import Lifecycle
from server.routes.page import STATIC
from server.settings import Settings

APP = create_app(Settings(api_key="secret"), Lifecycle())


def request(method: str, path: str, **headers: str) -> httpx.Response:
    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://server") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(answer())


def test_the_page_needs_no_key_and_all_that_it_loads_is_there() -> None:
    page = request("GET", "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    loaded = set(re.findall(r'(?:src|href)="(static/[^"]+)"', page.text))
    scripts = {path for path in loaded if path.endswith(".js")}
    while scripts:  # each imports others
        text = request("GET", f"/{scripts.pop()}").text
        imported = {f"static/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}
        scripts |= imported - loaded
        loaded |= imported
    assert loaded == {f"static/{path.name}" for path in STATIC.iterdir()} - {"static/chat.html"}
    for path in loaded:
        assert request("GET", f"/{path}").status_code == 200
    assert request("GET", "/v1/models").status_code == 401


def test_the_policy_allows_nothing_but_the_servers_own_files() -> None:
    policy = dict(part.split(" ", 1) for part in request("GET", "/").headers["content-security-policy"].split("; "))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert policy["default-src"] == "'none'"


def test_a_file_is_not_sent_twice() -> None:
    first = request("GET", "/static/chat.js")
    again = request("GET", "/static/chat.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = request("HEAD", "/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/static/none.js", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/"])
def test_nothing_else_is_served(path: str) -> None:
    assert request("GET", path).status_code in (401, 404)
    assert request("GET", path, **{"X-API-Key": "secret"}).status_code in (404, 503)
