"""Weights go where they are needed: from a torch loop to llm-serve, from transformers to a DecoderModel and back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llm import DecoderModel, SimpleCharacterTokenizer, generate
from llm_jax.checkpoint import load_model
from llm_jax.errors import CheckpointError
from tests.checkpoint.families_of_transformers import SHAPES, make, save
from tests.server.live import running
from tests.torch_compat.models import SHAPES as DOCUMENTED_SHAPES
from tests.torch_compat.models import make as make_documented
from tests.torch_compat.models import random_ids

TEXT = "the quick brown fox jumps over the lazy dog."
HYPERPARAMETERS: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "max_seq_len": 64}


@dataclass(frozen=True)
class Trained:
    model: DecoderModel
    tokenizer: SimpleCharacterTokenizer
    loss: float


@pytest.fixture(scope="module")
def trained() -> Trained:
    """What a plain PyTorch loop makes of one sentence."""
    torch.manual_seed(0)
    tokenizer = SimpleCharacterTokenizer([TEXT])
    model = DecoderModel(vocab_size=tokenizer.vocab_size, **HYPERPARAMETERS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Trained(model.eval(), tokenizer, loss.item())


def test_a_plain_training_loop_overfits(trained: Trained) -> None:
    assert trained.loss < 0.1
    assert generate(trained.model, trained.tokenizer, TEXT[0], len(TEXT) - 1, temperature=0) == TEXT


def test_what_torch_saved_is_served(trained: Trained, tmp_path: Path) -> None:
    torch.save(trained.model.state_dict(), tmp_path / "weights.pt")
    arguments = {"vocab_size": trained.tokenizer.vocab_size, **HYPERPARAMETERS}
    (tmp_path / "model.json").write_text(json.dumps(arguments))
    trained.tokenizer.save_pretrained(tmp_path)
    with running(model_path=tmp_path / "weights.pt") as server:
        body = {"prompt": TEXT[:4], "max_new_tokens": len(TEXT) - 4, "temperature": 0}
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
    assert answer["generated_text"] == TEXT


@pytest.mark.parametrize("name", ["documented", "experts"])
def test_a_state_dict_is_a_file_that_the_core_loads(name: str, tmp_path: Path) -> None:
    model, arguments = make_documented(DOCUMENTED_SHAPES[name])
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "model.json").write_text(json.dumps(arguments))
    loaded = load_model(tmp_path / "weights.pt").model
    for name, parameter in model.named_parameters():
        assert torch.equal(torch.from_dlpack(loaded.params[name]), parameter.detach())


@pytest.mark.parametrize("name", ["documented", "grouped, gated, RMS, learned, no biases", "rotary, padding"])
def test_saved_and_loaded_is_the_same(trained: Trained, name: str, tmp_path: Path) -> None:
    model, _ = make_documented(DOCUMENTED_SHAPES[name])
    model.save_pretrained(tmp_path / "model")
    again = DecoderModel.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    assert_same(again.state_dict(), model.state_dict())
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert {p.dtype for p in DecoderModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }
    trained.model.save_pretrained(tmp_path / "with words", trained.tokenizer)
    loaded = load_model(tmp_path / "with words").tokenizer
    assert loaded is not None
    assert loaded.encode(TEXT) == trained.tokenizer.encode(TEXT)


def test_what_is_loaded_can_be_trained_and_is_a_copy(tmp_path: Path) -> None:
    model, _ = make_documented(DOCUMENTED_SHAPES["documented"])
    model.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").read_bytes()
    again = DecoderModel.from_pretrained(tmp_path / "model")
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    first = again(random_ids(1, 8))
    first.square().mean().backward()
    optimizer.step()
    assert not torch.allclose(again(random_ids(1, 8)), first)
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
    views = again.as_jax().params
    for name, parameter in again.named_parameters():
        assert views[name].unsafe_buffer_pointer() == parameter.data_ptr(), name


@pytest.mark.parametrize(
    "key",
    [
        ("llama", "tied, biases, own head size, llama3 rope"),
        ("gpt2", "tied"),
        ("gemma3_text", "scaled rope on full layers"),
        ("qwen3_moe", "not renormalised, biases"),
    ],
    ids=" ".join,
)
def test_models_of_transformers_come_and_go(key: tuple[str, str], tmp_path: Path) -> None:
    """Logits equal theirs, gradients too, and what is saved again is theirs bit for bit."""
    theirs = make(key[0], SHAPES[key])
    ours = DecoderModel.from_pretrained(save(theirs, tmp_path / "theirs"))
    ids = torch.randint(0, ours.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))
    expected, logits = theirs(ids).logits, ours(ids)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    expected.square().mean().backward()
    logits.square().mean().backward()
    gradient = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.embedding_layer.token_embeddings.weight.grad, gradient, atol=1e-5, rtol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert_same(again.state_dict(), theirs.state_dict())


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        DecoderModel.from_pretrained(tmp_path / "nothing")


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
