"""Several adapters of one model in one batch: each sequence gets the tokens of its own, as peft computes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_jax.checkpoint import LoadedAdapter, load_model, read_adapter
from llm_jax.errors import ConfigError, RequestError
from llm_jax.inference import Engine, Request, SamplingParams
from llm_jax.inference.engine.stats import compilations
from llm_jax.model import AdapterCapacity, Model
from tests.adapters import greedy, make_adapter
from tests.checkpoint.families_of_transformers import make, save

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
NEW = 12
PROMPTS = [tuple(np.random.default_rng(n).integers(0, 61, n).tolist()) for n in (5, 90)]
# Separate q, k and v with a gate and ranks that differ; fused q, k and v with an activation behind the map.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {"target_modules": "all-linear", "rank_pattern": {"k_proj": 2}},
        {"target_modules": ["q_proj", "v_proj"], "r": 8, "use_rslora": True},
        {"target_modules": ["gate_proj", "down_proj"], "r": 1},
    ],
    "gpt2": [
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "r": 2},
        {"target_modules": ["c_fc"], "fan_in_fan_out": True},
    ],
}


class Served:
    """A model and three adapters of it, and what each of the four says to the prompts by itself."""

    def __init__(self, kind: str, folder: Path) -> None:
        base = make(kind, {"max_position_embeddings": 200, "num_hidden_layers": 1})
        save(base, folder / "base")
        self.model: Model = load_model(folder / "base").model
        self.adapters: dict[str, LoadedAdapter] = {}
        theirs = {"": base}
        for seed, settings in enumerate(SETTINGS[kind]):
            theirs[f"a{seed}"] = make_adapter(folder / "base", folder / f"a{seed}", seed, **settings)
            self.adapters[f"a{seed}"] = read_adapter(folder / f"a{seed}", self.model.config)
        self.expected = {(name, p): greedy(model, p, NEW) for name, model in theirs.items() for p in PROMPTS}

    def engine(self, *names: str) -> Engine:
        known = {name: loaded.adapter for name, loaded in self.adapters.items()}
        capacity = AdapterCapacity.of(self.model.config, known)
        engine = Engine(
            self.model, adapters=capacity, max_batch=4, kv_memory="20MB", prefix_tokens=512, speculate=False
        )
        for name in names:
            self.add(engine, name)
        return engine

    def add(self, engine: Engine, name: str, like: str | None = None) -> None:
        loaded = self.adapters[like or name]
        engine.add_adapter(name, loaded.adapter, loaded.params)


@pytest.fixture(scope="module", params=SETTINGS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served("llama", tmp_path_factory.mktemp("llama"))


def ask(adapter: str, prompt: tuple[int, ...]) -> Request:
    return Request(prompt_ids=prompt, sampling=SamplingParams(max_new_tokens=NEW, temperature=0.0), adapter=adapter)


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    tokens: list[list[int]] = [[] for _ in requests]
    for request, mine in zip(requests, tokens, strict=True):
        engine.submit(request, lambda event, mine=mine: mine.append(event.token))
    while engine.step():
        pass
    return tokens


def test_every_answer_is_that_of_its_model_or_adapter_alone(served: Served) -> None:
    engine = served.engine("a0", "a1", "a2")
    pairs = list(served.expected)  # in one batch there are sequences of all four
    found = answers(engine, [ask(name, prompt) for name, prompt in pairs])
    assert dict(zip(pairs, found, strict=True)) == served.expected
    assert len({tuple(served.expected[name, PROMPTS[0]]) for name in ("", "a0", "a1", "a2")}) == 4


def test_prompts_of_different_adapters_share_no_cached_blocks(llama: Served) -> None:
    engine = llama.engine("a0", "a1")
    prompt = PROMPTS[1]  # longer than a block
    for name in ("a0", "", "a1"):
        assert answers(engine, [ask(name, prompt)]) == [llama.expected[name, prompt]]
        assert engine.stats.prefix_hits == 0
    assert answers(engine, [ask("a0", prompt)]) == [llama.expected["a0", prompt]]
    assert engine.stats.prefix_hits == 64
    engine.remove_adapter("a0")
    llama.add(engine, "a0", like="a2")
    assert answers(engine, [ask("a0", prompt)]) == [llama.expected["a2", prompt]]
    assert engine.stats.prefix_hits == 64


def test_adapters_come_and_go_while_requests_run(llama: Served) -> None:
    engine = llama.engine("a0")
    found: dict[str, list[int]] = {"": [], "a0": [], "a1": []}
    for name in ("", "a0"):
        engine.submit(ask(name, PROMPTS[0]), lambda event, name=name: found[name].append(event.token))
    engine.step()
    before = compilations()
    engine.remove_adapter("a0")  # its request goes on
    with pytest.raises(RequestError, match="no adapter a0"):
        engine.submit(ask("a0", PROMPTS[0]), print)
    llama.add(engine, "a1")
    llama.add(engine, "third", like="a2")
    with pytest.raises(ConfigError, match="all 3 are in use, by a0, a1, third"):
        llama.add(engine, "fourth", like="a2")
    engine.submit(ask("a1", PROMPTS[0]), lambda event: found["a1"].append(event.token))
    while engine.step():
        pass
    assert found == {name: llama.expected[name, PROMPTS[0]] for name in found}
    llama.add(engine, "fourth", like="a2")  # in the slot that a0 had
    assert engine.adapters == ["fourth", "a1", "third"]
    assert answers(engine, [ask("fourth", PROMPTS[1])]) == [llama.expected["a2", PROMPTS[1]]]
    assert compilations() == before, "the first step has made every program"


def test_an_adapter_replaced_under_its_name_leaves_its_requests_as_they_are(llama: Served) -> None:
    engine = llama.engine("a0")
    first: list[int] = []
    engine.submit(ask("a0", PROMPTS[0]), lambda event: first.append(event.token))
    engine.step()
    llama.add(engine, "a0", like="a1")
    assert answers(engine, [ask("a0", PROMPTS[0])]) == [llama.expected["a1", PROMPTS[0]]]
    assert first == llama.expected["a0", PROMPTS[0]]
    assert engine.adapters == ["a0"]


def test_a_cancelled_request_gives_its_adapter_back(llama: Served) -> None:
    engine = llama.engine("a0")
    running = engine.submit(ask("a0", PROMPTS[0]), print)
    engine.remove_adapter("a0")
    engine.cancel(running)
    for name in ("a0", "a1", "a2"):  # all three slots are free
        llama.add(engine, name)
    assert answers(engine, [ask("a2", PROMPTS[0])]) == [llama.expected["a2", PROMPTS[0]]]


def test_what_does_not_fit_is_refused_with_the_reason(llama: Served) -> None:
    small = AdapterCapacity.of(llama.model.config, {"a2": llama.adapters["a2"].adapter})
    with pytest.raises(ConfigError, match=r"rank 8, and there is space for 1; set max_adapter_rank"):
        small.check("a1", llama.adapters["a1"].adapter)
    narrow = AdapterCapacity.of(llama.model.config, {"a1": llama.adapters["a1"].adapter})
    with pytest.raises(ConfigError, match=r"changes transformer_blocks\.0\.mlp\."):
        narrow.check("a2", llama.adapters["a2"].adapter)
    magnitudes = llama.adapters["a1"].adapter
    magnitudes = replace(magnitudes, modules=tuple(replace(m, dora=True) for m in magnitudes.modules))
    with pytest.raises(ConfigError, match=r"DoRA.* llm-convert --adapter"):
        AdapterCapacity.of(llama.model.config, {"d": magnitudes})
    with pytest.raises(ConfigError, match="takes no adapters"):
        Engine(llama.model, max_batch=2, kv_memory="20MB").submit(ask("a0", PROMPTS[0]), print)
