"""A served model behind the application, in the process of the test."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from llm_jax.hub import load_with_tokenizer
from server.app import create_app
from server.lifecycle import Lifecycle
from server.observers import Observer
from server.served_model import ServedModel
from server.settings import Settings

SETTINGS = Settings(dtype="float32", max_batch=4, prefix_cache=0, speculate=False)


@dataclass
class App:
    """The application of one model."""

    model: ServedModel
    app: Starlette

    def request(self, path: str, **body: Any) -> httpx.Response:
        [response] = self.requests((path, body))
        return response

    def requests(self, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
        """The responses to requests that are sent at once."""

        async def answer() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://server") as client:
                return await asyncio.gather(*[client.post(path, json=body) for path, body in requests])

        return asyncio.run(answer())

    def get(self, path: str) -> httpx.Response:
        async def answer() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://server") as client:
                return await client.get(path)

        return asyncio.run(answer())

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The answer, which must be one."""
        response = self.request(path, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The events of a stream, without the last, which must be [DONE]."""
        text = self.request(path, stream=True, **body).text
        *events, done = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        assert done == "[DONE]"
        return [json.loads(event) for event in events]

    def refusal(self, path: str, **body: Any) -> dict[str, Any]:
        """The error, which must be the client's."""
        response = self.request(path, **body)
        assert response.status_code in (400, 422), response.text
        error: dict[str, Any] = response.json()["error"]
        return error


@contextmanager
def serving(path: Path, settings: Settings = SETTINGS, observers: Sequence[Observer] = ()) -> Iterator[App]:
    model = ServedModel("llm", *load_with_tokenizer(path), settings, observers=observers)
    model.start()
    lifecycle = Lifecycle()
    app = create_app(settings, lifecycle)
    lifecycle.become_ready(model)
    yield App(model, app)
    model.close()
