"""Models and adapters by name, as peft and transformers compute them; adapters that come and go."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from llm_jax.errors import ConfigError
from llm_jax.tokenizers import BPETokenizer
from server.adapters import find_adapters
from server.app import create_app
from server.lifecycle import Lifecycle
from server.loading import load_models
from server.settings import Settings, load_settings
from tests.adapters import greedy, make_adapter
from tests.checkpoint.families_of_transformers import make, save

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
NEW = 10
PROMPTS = [tuple(np.random.default_rng(n).integers(0, 250, n).tolist()) for n in (4, 30, 90)]
TARGETS = {"one": "all-linear", "two": ["q_proj", "v_proj"], "three": ["down_proj", "k_proj"]}
ADMIN = {"Authorization": "Bearer operator"}


class App:
    """An application of two models, the first with three adapters, two of them from a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.theirs = folder, {}
        tokenizer = BPETokenizer.train([], 258)
        for seed, name in enumerate(("first", "second")):
            base = make("llama", {"vocab_size": 260, "max_position_embeddings": 256, "num_hidden_layers": 1}, seed)
            save(base, folder / name)
            tokenizer.save_pretrained(folder / name)
            self.theirs[name] = base
        for seed, (name, targets) in enumerate(TARGETS.items()):
            place = folder / name if name == "one" else folder / "adapters" / name
            self.theirs[name] = make_adapter(folder / "first", place, seed, target_modules=targets)
        self.texts = {
            (name, prompt): tokenizer.decode(greedy(model, prompt, NEW))
            for name, model in self.theirs.items()
            for prompt in PROMPTS
        }
        settings = Settings(
            model=(f"first={folder / 'first'}", f"second={folder / 'second'}"),
            adapter=(f"one={folder / 'one'}@first",),
            adapter_dir=str(folder / "adapters"),
            api_key="user",
            admin_key="operator",
            max_adapters=3,
            max_batch=4,
            kv_memory="20MB",
            speculate=False,
        )
        lifecycle, found = Lifecycle(), find_adapters(settings)
        self.app: Starlette = create_app(settings, lifecycle)
        self.models = load_models(settings, found, observers=[])
        lifecycle.become_ready(*self.models)
        self.app.state.adapters.remember(found)

    def run(self, conversation: Any) -> Any:
        """Runs a coroutine function of a client."""

        async def run() -> Any:
            headers = {"X-API-Key": "user"}
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://s", headers=headers) as client:
                return await conversation(client)

        return asyncio.run(run())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("adapters"))
    yield app
    for model in app.models:
        model.close()


async def ask(client: httpx.AsyncClient, model: str | None, prompt: tuple[int, ...], **body: Any) -> Any:
    body |= {"prompt": list(prompt), "max_tokens": NEW, "temperature": 0, "ignore_eos": True}
    return await client.post("/v1/completions", json=body if model is None else {"model": model, **body})


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def test_every_answer_is_that_of_the_model_or_adapter_that_is_named(app: App) -> None:
    async def talk(client: httpx.AsyncClient) -> Any:
        return await asyncio.gather(*[ask(client, name, prompt) for name, prompt in app.texts])

    assert dict(zip(app.texts, map(text, app.run(talk)), strict=True)) == app.texts
    assert len({app.texts[name, PROMPTS[0]] for name in app.theirs}) == 5


def test_the_list_of_models_says_what_belongs_together(app: App) -> None:
    cards = app.run(lambda client: client.get("/v1/models")).json()["data"]
    parents = {card["id"]: card.get("parent") for card in cards}
    assert parents == {"first": None, "second": None, "one": "first", "two": "first", "three": "first"}


def test_the_first_model_is_the_default_and_an_unknown_name_is_not_found(app: App) -> None:
    assert text(app.run(lambda client: ask(client, None, PROMPTS[0]))) == app.texts["first", PROMPTS[0]]
    response = app.run(lambda client: ask(client, "fourth", PROMPTS[0]))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "'first', 'second', " in response.json()["error"]["message"]


def test_an_adapter_embeds_texts_in_its_own_way(app: App) -> None:
    async def talk(client: httpx.AsyncClient) -> list[Any]:
        bodies = [{"model": name, "input": [list(PROMPTS[1])]} for name in ("first", "one")]
        answers = [await client.post("/v1/embeddings", json=body) for body in bodies]
        return [answer.json()["data"][0]["embedding"] for answer in answers]

    base, adapted = app.run(talk)
    assert np.abs(np.subtract(base, adapted)).max() > 1e-3


def test_an_operator_unloads_an_adapter_whose_requests_end_as_they_began_and_loads_it_again(app: App) -> None:
    load = {"lora_name": "one", "lora_path": str(app.folder / "one"), "base_model_name": "first"}

    async def talk(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "one"})).status_code == 401
        running = [asyncio.create_task(ask(client, "one", prompt)) for prompt in PROMPTS]
        while sum(model.stats.running + model.stats.waiting for model in app.models[:1]) < len(PROMPTS):
            await asyncio.sleep(0)
        gone = await client.post("/v1/unload_lora_adapter", json={"lora_name": "one"}, headers=ADMIN)
        assert gone.status_code == 200
        assert (await ask(client, "one", PROMPTS[0])).status_code == 404
        for prompt, answer in zip(PROMPTS, await asyncio.gather(*running), strict=True):
            assert text(answer) == app.texts["one", prompt]
        loaded = await client.post("/v1/load_lora_adapter", json=load, headers=ADMIN)
        assert loaded.json() == {"status": "loaded", "lora_name": "one"}
        assert text(await ask(client, "one", PROMPTS[0])) == app.texts["one", PROMPTS[0]]
        wrongs = ({"lora_path": "/nowhere"}, 404), ({"lora_path": "a" * 300}, 404), ({"lora_name": "first"}, 400)
        for wrong, status in wrongs:
            refusal = await client.post("/v1/load_lora_adapter", json=load | wrong, headers=ADMIN)
            assert refusal.status_code == status, wrong
        refusal = await client.post("/v1/load_lora_adapter", json=load | {"lora_name": "x"}, headers=ADMIN)
        assert "all 3 are in use, by one, three, two" in refusal.json()["error"]["message"]

    app.run(talk)


def test_an_adapter_that_moves_to_another_model_leaves_its_slot(app: App) -> None:
    first, second = app.models[:2]
    body = {"lora_name": "one", "lora_path": str(app.folder / "one")}

    async def talk(client: httpx.AsyncClient) -> None:
        for base, left in (("second", ("three", "two")), ("first", ("one", "three", "two"))):
            moved = await client.post("/v1/load_lora_adapter", json=body | {"base_model_name": base}, headers=ADMIN)
            assert moved.status_code == 200, moved.text
            assert tuple(sorted(first._engine.adapters)) == left
        assert not second._engine.adapters
        assert text(await ask(client, "one", PROMPTS[0])) == app.texts["one", PROMPTS[0]]

    app.run(talk)


def test_texts_that_an_adapter_has_not_embedded_when_it_is_unloaded_are_not_found(app: App) -> None:
    """More texts than run at a time, so that some are submitted behind its end."""
    load = {"lora_name": "one", "lora_path": str(app.folder / "one"), "base_model_name": "first"}

    async def talk(client: httpx.AsyncClient) -> None:
        texts = {"model": "one", "input": [list(PROMPTS[2])] * 12}
        embedding = asyncio.create_task(client.post("/v1/embeddings", json=texts))
        while not app.models[0].stats.running:
            await asyncio.sleep(0)
        await client.post("/v1/unload_lora_adapter", json={"lora_name": "one"}, headers=ADMIN)
        answer = await embedding
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert (await client.post("/v1/load_lora_adapter", json=load, headers=ADMIN)).status_code == 200

    app.run(talk)


def test_the_directory_of_adapters_is_read_again(app: App) -> None:
    adapters = app.folder / "adapters"

    async def talk(client: httpx.AsyncClient) -> None:
        (adapters / "two").rename(adapters / "renamed")
        await app.app.state.adapters.refresh()
        assert (await ask(client, "two", PROMPTS[0])).status_code == 404
        assert text(await ask(client, "renamed", PROMPTS[0])) == app.texts["two", PROMPTS[0]]
        shutil.rmtree(adapters / "renamed")
        shutil.copytree(app.folder / "one", adapters / "two")
        await app.app.state.adapters.refresh()
        assert text(await ask(client, "two", PROMPTS[0])) == app.texts["one", PROMPTS[0]]
        names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert sorted(names) == ["first", "one", "second", "three", "two"]

    app.run(talk)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"model": ("a=x", "y")}, "'y', one of several, and needs a name"),
        ({"model": ("a=x", "a=y")}, "two models 'a'"),
        ({"model": ("a=x", "b=y"), "adapter": ("c=z",)}, "@ and a, b"),
        ({"model": ("a=x",), "adapter": ("a=z",)}, "names something else too"),
        ({"adapter": ("z",)}, "must be NAME=PATH"),
    ],
)
def test_a_name_that_is_missing_or_taken_is_an_error_at_the_start(flags: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_settings({}, flags)


def test_models_and_adapters_from_the_environment() -> None:
    environ = {"LLM_SERVING_MODEL": "a=/m/a, b=/m/b", "LLM_SERVING_ADAPTER": "c=/m/c@b"}
    settings = load_settings(environ, {})
    assert settings.models == {"a": "/m/a", "b": "/m/b"}
    assert settings.adapters == {"c": ("/m/c", "b")}
    assert load_settings({"LLM_SERVING_MODEL_PATH": "/m,n"}, {}).models == {"llm": "/m,n"}
