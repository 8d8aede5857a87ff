"""Every family: the same logits and tokens as transformers, and a lossless round trip."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from llm_jax.checkpoint import load_model, save_model
from llm_jax.checkpoint.families import DECODER_MODEL, FAMILIES, family_for, family_of_config
from llm_jax.checkpoint.family import canonical
from llm_jax.checkpoint.formats.gguf.architectures import ARCHITECTURES
from llm_jax.errors import CheckpointError
from llm_jax.model import Model, dense_layout, init_cache
from tests.checkpoint.families_of_transformers import CONTEXT, SHAPES, make, save
from tests.checkpoint.greedy import continue_greedily
from tests.compiled import forward

CHUNK = 7
LONG = "longrope beyond its original context"
# Families that compute the same function as a plainer one, and are written as that.
WRITTEN_AS = {"helium": "llama", "ernie4_5": "llama", "seed_oss": "qwen2"}
every_shape = pytest.mark.parametrize(("model_type", "shape"), SHAPES, ids=[" ".join(key) for key in SHAPES])
FIRST_SHAPES = dict(reversed(SHAPES))
every_family = pytest.mark.parametrize("model_type", FIRST_SHAPES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the model of transformers, the directory that it saved) of a shape, made once."""
    made: dict[tuple[str, str], tuple[PreTrainedModel, Path]] = {}

    def get(model_type: str, shape: str) -> tuple[PreTrainedModel, Path]:
        if (model_type, shape) not in made:
            model = make(model_type, SHAPES[model_type, shape])
            made[model_type, shape] = model, save(model, tmp_path_factory.mktemp(model_type) / "model")
        return made[model_type, shape]

    return get


def logits_of(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def random_tokens(vocab: int, rows: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, (rows, CONTEXT)).astype(np.int32)


@every_shape
def test_logits_equal_those_of_transformers(saved: Any, model_type: str, shape: str) -> None:
    """Rows of 14 and 11 tokens are prefilled together and go on from the cache, the first to the full context."""
    reference, directory = saved(model_type, shape)
    model = load_model(directory).model
    assert model.config.max_seq_len == CONTEXT
    tokens = random_tokens(model.config.vocab_size)
    expected = logits_of(reference, tokens)
    np.testing.assert_allclose(in_chunks(model, tokens, (14, 11)), expected, atol=1e-4)


# transformers rotates all positions by other factors once a text is longer than LongRoPE's original context.
@pytest.mark.parametrize(("model_type", "shape"), [key for key in SHAPES if key[1] != LONG])
def test_the_likeliest_tokens_are_those_that_transformers_generates(saved: Any, model_type: str, shape: str) -> None:
    """From prompts of 9 and 4 tokens to the full context: by induction, greedy decoding gives the same."""
    reference, directory = saved(model_type, shape)
    model = load_model(directory).model
    tokens = random_tokens(model.config.vocab_size)
    texts = [generated(reference, row[:length]) for row, length in zip(tokens, (9, 4), strict=True)]
    likeliest = in_chunks(model, np.array(texts, np.int32), (14, 11)).argmax(-1)
    for text, length, following in zip(texts, (9, 4), likeliest, strict=True):
        assert following[length - 1 : -1].tolist() == text[length:]


def in_chunks(model: Model, tokens: np.ndarray, lengths: tuple[int, int]) -> np.ndarray:
    """Logits [2, CONTEXT, V]: the first `lengths` tokens of the rows by prefill, the others from the cache.

    All in calls of CHUNK tokens, so that each architecture is one compiled program.
    """
    logits = np.zeros((*tokens.shape, model.config.vocab_size), np.float32)
    cache = init_cache(model.config, 2, CONTEXT)
    cached = np.zeros(2, np.int32)
    while (cached < CONTEXT).any():
        at = np.minimum(cached[:, None] + np.arange(CHUNK), CONTEXT - 1)
        layout = dense_layout(cache, jnp.asarray(cached), CHUNK)
        chunk, cache = forward(model.config, model.params, tokens[[[0], [1]], at], cache=cache, layout=layout)
        for row, length in enumerate(lengths):
            # Tokens after the end of a row's prompt are padding in the prefill; the next call overwrites them.
            count = min(CHUNK, (length if cached[row] < length else CONTEXT) - cached[row])
            logits[row, cached[row] : cached[row] + count] = chunk[row, :count]
            cached[row] += count
    return logits


def generated(reference: PreTrainedModel, prompt: np.ndarray) -> list[int]:
    """The prompt and what follows greedily, to the full context."""
    ids = torch.tensor(prompt, dtype=torch.int64)[None]
    count = CONTEXT - len(prompt)
    return reference.generate(ids, do_sample=False, max_new_tokens=count)[0].tolist()


# Each has a feature in the decode step that those before it do not have.
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3", "gemma2", "mixtral", "phi3", "cohere2", "gpt_oss"])
def test_the_engine_continues_as_transformers_does(saved: Any, model_type: str) -> None:
    """Prompts of unequal length in one batch; each alone in transformers."""
    reference, directory = saved(model_type, FIRST_SHAPES[model_type])
    model = load_model(directory).model
    tokens = random_tokens(model.config.vocab_size)
    texts = [generated(reference, row[:length]) for row, length in zip(tokens, (9, 4), strict=True)]
    prompts = [text[:length] for text, length in zip(texts, (9, 4), strict=True)]
    count = CONTEXT - 9
    for text, prompt, new in zip(texts, prompts, continue_greedily(model, prompts, count), strict=True):
        assert prompt + new == text[: len(prompt) + count]


@every_shape
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "sharded"])
def test_a_round_trip_is_lossless(saved: Any, tmp_path: Path, model_type: str, shape: str, sharded: bool) -> None:
    reference, directory = saved(model_type, shape)
    if sharded:
        directory = save(reference, tmp_path / "sharded", max_shard_size="10KB")
        assert len(list(directory.glob("*.safetensors"))) > 1
    loaded = load_model(directory)
    save_model(tmp_path / "back", loaded.model, max_shard_bytes=10_000 if sharded else 2**30)

    back = load_model(tmp_path / "back").model
    assert canonical(back.config) == canonical(loaded.model.config)
    assert_same_bits(loaded.model.params, back.params)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    tokens = random_tokens(loaded.model.config.vocab_size)
    if again.config.model_type == model_type:
        assert_same_bits(read_all(directory), read_all(tmp_path / "back"))
        np.testing.assert_array_equal(logits_of(again, tokens), logits_of(reference, tokens))
    else:  # the rows of a matrix may be in another order
        np.testing.assert_allclose(logits_of(again, tokens), logits_of(reference, tokens), atol=1e-4)


def assert_same_bits(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert np.asarray(tensor).tobytes() == np.asarray(after[name]).tobytes(), name


def read_all(directory: Path) -> dict[str, np.ndarray]:
    return {name: array for path in directory.glob("*.safetensors") for name, array in load_file(path).items()}


@every_family
def test_a_family_is_written_as_itself(saved: Any, model_type: str) -> None:
    config = load_model(saved(model_type, FIRST_SHAPES[model_type])[1]).model.config
    assert family_for(config).model_type == WRITTEN_AS.get(model_type, model_type)


def test_every_family_is_tested() -> None:
    assert {family.model_type for family in FAMILIES if family is not DECODER_MODEL} == set(FIRST_SHAPES)


def test_the_page_on_families_has_every_family_and_every_architecture_of_llama_cpp() -> None:
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    families, architectures = (set(re.findall(r"`([^`]+)`", " ".join(row[at] for row in rows))) for at in (1, -2))
    assert families == {family.model_type for family in FAMILIES if family is not DECODER_MODEL}
    assert architectures == {architecture.model_type for architecture in ARCHITECTURES}


def older(config: dict[str, Any]) -> dict[str, Any]:
    """The same config.json as transformers 4 wrote it."""
    config = copy.deepcopy(config)
    rope = config.pop("rope_parameters", {})
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config |= {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    rope_type = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if rope_type == "default" else {"type": rope_type, **rope}
    config["torch_dtype"] = config.pop("dtype")
    return config


@every_shape
def test_configurations_of_transformers_4_are_read_the_same(saved: Any, model_type: str, shape: str) -> None:
    raw = json.loads((saved(model_type, shape)[1] / "config.json").read_text())
    family = family_of_config(raw)
    assert family.read_config(older(raw)) == family.read_config(raw)


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("llama", {"model_type": "bert"}, "model_type 'bert'; known families are llama, mistral, "),
        ("llama", {"rope_parameters": {"rope_type": "proportional"}}, "of the type 'proportional'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "lacks 'factor'"),
        ("llama", {"hidden_act": "mish"}, "activation is 'mish'; it must be one of gelu"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads is 3; it must be a divisor of num_heads"),
        ("glm4_moe", {"n_group": 2}, "n_group: 2, which this decoder does not compute"),
        ("falcon", {"alibi": True}, "alibi: True, which this decoder does not compute"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "swiglu_alpha: 1.0, which this decoder does not compute"),
        ("llama", {"model_type": "qwen3_next"}, "model_type 'qwen3_next'; known families are "),
        ("llama", {"model_type": "gemma4"}, "model_type 'gemma4'; known families are "),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention: True"),
        ("gemma2", {"layer_types": ["sliding_attention", "linear_attention"]}, "layer of the type 'linear_attention'"),
    ],
)  # fmt: skip
def test_unsupported_configurations_are_refused(
    saved: Any, tmp_path: Path, model_type: str, change: dict[str, Any], message: str
) -> None:
    directory = saved(model_type, FIRST_SHAPES[model_type])[1]
    raw = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_a_configuration_that_contradicts_the_weights_is_refused(saved: Any, tmp_path: Path) -> None:
    directory = saved("llama", "plain")[1]
    raw = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 3, "intermediate_size": 41}))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    message = str(caught.value)
    assert "missing: model.layers.2.input_layernorm.weight" in message
    assert "model.layers.0.mlp.gate_proj.weight is [40, 32] where [41, 32] is expected" in message


def test_the_weights_of_another_family_are_refused(saved: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(saved("llama", "plain")[1] / "config.json")
    (tmp_path / "model.safetensors").symlink_to(saved("gemma2", "soft caps")[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected: .*pre_feedforward_layernorm"):
        load_model(tmp_path)
