"""The documented names, from the documented import paths, on checkpoints from the field."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import llm
import llm_jax
from llm.inference import batch_generate, generate, stream_generate
from llm.models.decoder import DecoderModel
from llm.tokenization.simple_tokenizer import SimpleCharacterTokenizer
from llm.tokenization.tokenizer import BaseTokenizer, BPETokenizer, HFTokenizer
from llm_jax import inference

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures/torch_checkpoints").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("file", ["state_dict.pt", "training_checkpoint.pt"])
def test_checkpoints_from_the_field(folder: Path, file: str) -> None:
    arguments: dict[str, Any] = json.loads((folder / "model.json").read_text())
    if "norm_type" in arguments:
        arguments["norm_type"] = getattr(nn, arguments["norm_type"])
    state = torch.load(folder / file, weights_only=True)
    state = {name.removeprefix("_orig_mod."): t for name, t in state.get("model_state_dict", state).items()}
    model = DecoderModel(**arguments).eval()
    model.load_state_dict(state)
    expected = torch.load(folder / "expected.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(model(expected["input_ids"]), expected["logits"], atol=1e-4, rtol=0)
        ids, past, step = expected["greedy"][:, :5], None, expected["greedy"][:, :5]
        while ids.shape[1] < expected["greedy"].shape[1]:
            logits, past = model(step, past_key_values=past, use_cache=True)
            step = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, step], dim=1)
    assert torch.equal(ids, expected["greedy"])


def test_the_documented_names_are_there() -> None:
    assert llm.__version__ == llm_jax.__version__
    assert llm.DecoderModel is DecoderModel
    assert (llm.generate, llm.stream_generate, llm.batch_generate) == (generate, stream_generate, batch_generate)
    assert llm.SimpleCharacterTokenizer is SimpleCharacterTokenizer
    assert isinstance(SimpleCharacterTokenizer(["ab"]), BaseTokenizer) or hasattr(BaseTokenizer, "encode")
    assert all(hasattr(BPETokenizer, name) for name in ("train", "load", "save"))
    assert hasattr(HFTokenizer, "from_pretrained")


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[DecoderModel, SimpleCharacterTokenizer]:
    tokenizer = SimpleCharacterTokenizer(["Hello world", "This is a test"])
    torch.manual_seed(0)
    model = DecoderModel(vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, max_seq_len=128)
    return model, tokenizer


def test_generation_is_the_cores_own(model_and_tokenizer: tuple[DecoderModel, SimpleCharacterTokenizer]) -> None:
    model, tokenizer = model_and_tokenizer
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 7}
    text = generate(model=model, tokenizer=tokenizer, prompt="Hello", repetition_penalty=1.1, **settings)
    assert text.startswith("Hello")
    assert len(text) > 5
    assert text == inference.generate(model.as_jax(), tokenizer, "Hello", repetition_penalty=1.1, **settings)
    pieces = stream_generate(model, tokenizer, "Hello", repetition_penalty=1.1, **settings)
    assert "Hello" + "".join(pieces) == text
    assert batch_generate(model, tokenizer, ["Hello"], repetition_penalty=1.1, **settings) == [text]
    assert batch_generate(model, tokenizer, [], 3) == []


def step_of_an_optimizer(model: DecoderModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    optimizer.step()


def other_state(model: DecoderModel) -> None:
    model.load_state_dict({name: -3 * tensor for name, tensor in model.state_dict().items()})


def write_unknown_to_autograd(model: DecoderModel) -> None:
    """Leaves no trace in the tensors' version counters."""
    model.lm_head.weight.data.neg_()


@pytest.mark.parametrize("change", [step_of_an_optimizer, other_state, write_unknown_to_autograd])
def test_generation_follows_weights_that_change_in_place(change: Callable[[DecoderModel], None]) -> None:
    tokenizer = SimpleCharacterTokenizer(["Hello world"])
    torch.manual_seed(0)
    model = DecoderModel(vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4, max_seq_len=64)
    shared = model.eval().as_jax()

    def texts() -> list[str]:
        return [
            generate(model, tokenizer, "Hello", 8, temperature=0),
            inference.generate(shared, tokenizer, "Hello", 8, temperature=0),
        ]

    before = texts()
    change(model)
    expected = generate(copy.deepcopy(model), tokenizer, "Hello", 8, temperature=0)
    assert texts() == [expected] * 2
    assert expected not in before


def test_generation_follows_the_weights(model_and_tokenizer: tuple[DecoderModel, SimpleCharacterTokenizer]) -> None:
    model, tokenizer = model_and_tokenizer
    bias = model.lm_head.bias.detach().clone()
    favourite = tokenizer.encode("w")[0]
    with torch.no_grad():
        model.lm_head.bias[favourite] += 100.0
    assert generate(model, tokenizer, "Hello", 4, temperature=0) == "Hellowwww"
    with torch.no_grad():
        model.lm_head.bias.copy_(bias)
    assert generate(model, tokenizer, "Hello", 4, temperature=0) != "Hellowwww"
