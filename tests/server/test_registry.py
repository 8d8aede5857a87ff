"""Several models behind one application: a request goes to the model that it names."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from llm_jax.hub import load_with_tokenizer
from server.app import create_app
from server.lifecycle import Lifecycle
from server.observers import RequestStats
from server.served_model import ServedModel
from server.settings import Settings
from tests.server.tiny import RECITED, save_reciter

SETTINGS = Settings(max_batch=1, max_model_len=64, prefix_cache=0, speculate=False)
OTHER = " Bonk."


class Recorder:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.requests: list[RequestStats] = []

    def on_rejected(self, reason: str) -> None:
        self.events.append(f"rejected: {reason}")

    def on_admitted(self, request: RequestStats) -> None:
        self.events.append("admitted")
        self.requests.append(request)

    def on_first_token(self, request: RequestStats) -> None:
        self.events.append("first token")

    def on_next_token(self, request: RequestStats, interval: float) -> None:
        assert interval > 0
        self.events.append("token")

    def on_embedded(self, request: RequestStats) -> None:
        self.events.append("embedded")

    def on_ended(self, request: RequestStats) -> None:
        self.events.append("ended")
        self.requests.append(request)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def models(reciter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServedModel]]:
    other = save_reciter(tmp_path_factory.mktemp("models") / "other", OTHER)
    models = {
        name: ServedModel(name, *load_with_tokenizer(path), SETTINGS, observers=[])
        for name, path in (("first", reciter), ("second", other))
    }
    for model in models.values():
        model.start()
    yield models
    for model in models.values():
        model.close()


def ask(app: Starlette, method: str, path: str, **body: Any) -> httpx.Response:
    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.request(method, path, json=body or None)

    return asyncio.run(answer())


def application(*models: ServedModel) -> Starlette:
    lifecycle = Lifecycle()
    app = create_app(SETTINGS, lifecycle)
    lifecycle.become_ready(*models)
    return app


def test_a_request_goes_to_the_model_that_it_names(models: dict[str, ServedModel]) -> None:
    app = application(*models.values())
    for name, text in (("first", RECITED), ("second", OTHER)):
        for path, field in (("/v1/completions", "prompt"), ("/v1/chat/completions", "messages")):
            value = "Say" if field == "prompt" else [{"role": "user", "content": "Hello!"}]
            answer = ask(app, "POST", path, model=name, temperature=0, **{field: value}).json()
            assert answer["model"] == name
            [choice] = answer["choices"]
            assert (choice["text"] if field == "prompt" else " " + choice["message"]["content"]) == text


def test_a_request_that_names_none_goes_to_the_first(models: dict[str, ServedModel]) -> None:
    app = application(*models.values())
    answer = ask(app, "POST", "/v1/completions", prompt="Say", temperature=0).json()
    assert (answer["model"], answer["choices"][0]["text"]) == ("first", RECITED)
    assert ask(app, "POST", "/generate", prompt="Say", temperature=0).json()["generated_text"] == "Say" + RECITED


def test_an_unknown_name_is_a_404_among_several_and_ignored_by_a_lone_model(models: dict[str, ServedModel]) -> None:
    response = ask(application(*models.values()), "POST", "/v1/completions", model="third", prompt="Say")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    answer = ask(application(models["second"]), "POST", "/v1/completions", model="third", prompt="Say", temperature=0)
    assert (answer.json()["model"], answer.json()["choices"][0]["text"]) == ("third", OTHER)


def test_every_model_is_listed_and_can_be_looked_up(models: dict[str, ServedModel]) -> None:
    app = application(*models.values())
    cards = ask(app, "GET", "/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["first", "second"]
    assert [ask(app, "GET", f"/v1/models/{card['id']}").json() for card in cards] == cards
    assert all(card["max_model_len"] == 64 and card["created"] > 0 for card in cards)
    assert ask(app, "GET", "/v1/models/third").status_code == 404


def test_metrics_say_which_model_they_are_of(models: dict[str, ServedModel]) -> None:
    app = application(*models.values())

    def queries(name: str) -> float:
        text = ask(app, "GET", "/metrics").text
        [value] = re.findall(rf'\nllm_prefix_cache_queries_total{{model_name="{name}"}} (\S+)\n', text)
        return float(value)

    before = {name: queries(name) for name in models}
    ask(app, "POST", "/v1/completions", model="second", prompt="Say", temperature=0, max_tokens=3)
    assert {name: queries(name) - before[name] for name in models} == {"first": 0, "second": 3}
    text = ask(app, "GET", "/metrics").text
    assert '\nllm_generation_tokens_total{model_name="first"} 0.0\n' in text, "from the start"
    assert re.search(r'\nllm_cache_config_info{block_size="64",model_name="second",num_gpu_blocks="\d+"} 1.0\n', text)


def test_observers_are_told_of_each_event(reciter: Path, recorder: Recorder) -> None:
    settings = replace(SETTINGS, max_queue=0)
    model = ServedModel("observed", *load_with_tokenizer(reciter), settings, observers=[recorder])
    model.start()
    app = application(model)
    app.state.lifecycle.observers.append(recorder)  # of what does not reach a model
    ask(app, "POST", "/generate", prompt="Say", max_new_tokens=3, temperature=0)
    assert recorder.events == ["admitted", "first token", "token", "token", "ended"]
    request, same = recorder.requests
    assert request is same
    assert (request.prompt_tokens, request.generated_tokens, request.finish_reason) == (3, 3, "length")
    assert request.admitted is not None
    assert request.first_token is not None
    assert request.last_token is not None
    assert request.arrived < request.admitted < request.first_token < request.last_token

    async def overflow() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await asyncio.gather(*[client.post("/generate", json={"prompt": "Say"}) for _ in range(2)])

    assert sorted(response.status_code for response in asyncio.run(overflow())) == [200, 429]
    assert "rejected: queue_full" in recorder.events
    model.close()
