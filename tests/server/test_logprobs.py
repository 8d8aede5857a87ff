"""Log-probabilities: those of transformers, and offsets and bytes that rebuild the text exactly."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_jax import demo
from llm_jax.checkpoint import load_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model, init_params
from llm_jax.tokenizers import render_chat
from tests.server.in_process import App, serving

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PROMPT = "The little dog, née 中 😀, said"
LONG = "Once upon a time there was a little dog who said: é中😀. " * 5  # several blocks, which may be cached
TOLERANCE = 1e-4


@dataclass
class Case:
    app: App
    reference: Any

    def logprobs(self, ids: list[int]) -> np.ndarray:
        """Of each next token: [position, token]."""
        with torch.no_grad():
            logits = self.reference(torch.tensor([ids])).logits[0]
        result: np.ndarray = torch.log_softmax(logits, -1).numpy()
        return result


def tiny_llama(path: Path) -> Path:
    tokenizer = load_model(demo.PATH).tokenizer
    assert tokenizer is not None
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=64,
        max_seq_len=256,
        positions="rotary",
        norm="rms_norm",
        activation="silu",
        use_glu=True,
        qkv_bias=False,
        mlp_bias=False,
        lm_head_bias=False,
        embedding_scale=1.0,
    )
    params = {name: 4 * value for name, value in init_params(config).items()}  # far from uniform
    save_model(path, Model(config, params), tokenizer)
    return path


@pytest.fixture(scope="module", params=["demo", "llama"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = Path(demo.PATH) if request.param == "demo" else tiny_llama(tmp_path_factory.mktemp("models") / "llama")
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    assert reference.config.model_type == "llama"
    with serving(path) as app:
        yield Case(app, reference)


def ids_of(case: Case, text: str) -> list[int]:
    return case.app.model.tokenizer.encode_with_special_tokens(text)


@pytest.mark.parametrize("prompt", [PROMPT, LONG])
@pytest.mark.parametrize("stream", [False, True])
def test_completions_with_echo(case: Case, prompt: str, stream: bool) -> None:
    body = {"prompt": prompt, "max_tokens": 5, "logprobs": 4, "echo": True, "temperature": 0}
    if stream:
        parts = [event["choices"][0] for event in case.app.stream(COMPLETIONS, **body)]
        text = "".join(part["text"] for part in parts)
        logged = {key: [entry for part in parts for entry in part["logprobs"][key]] for key in parts[0]["logprobs"]}
    else:
        [choice] = case.app.post(COMPLETIONS, **body)["choices"]
        text, logged = choice["text"], choice["logprobs"]
    ids = ids_of(case, prompt)
    assert text.startswith(prompt)
    for _ in range(5):
        expected = case.logprobs(ids)
        ids.append(int(expected[-1].argmax()))
    count = len(logged["tokens"])
    assert {len(values) for values in logged.values()} == {count}
    assert (logged["token_logprobs"][0], logged["top_logprobs"][0]) == (None, None)
    assert count == len(ids)
    got = logged["token_logprobs"][1:]
    np.testing.assert_allclose(got, expected[np.arange(len(ids) - 1), ids[1:]], atol=TOLERANCE)
    for at, top in enumerate(logged["top_logprobs"][1:]):
        best = np.sort(expected[at])[::-1][:4]
        np.testing.assert_allclose(sorted(top.values(), reverse=True)[:4], best, atol=TOLERANCE)
        assert logged["tokens"][at + 1] in top


def test_prompt_logprobs(case: Case) -> None:
    ids = ids_of(case, PROMPT)
    expected = case.logprobs(ids)
    [choice] = case.app.post(COMPLETIONS, prompt=PROMPT, max_tokens=1, prompt_logprobs=2)["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    for at, alternatives in enumerate(others):
        assert str(ids[at + 1]) in alternatives
        for token, entry in alternatives.items():
            assert abs(entry["logprob"] - expected[at][int(token)]) < TOLERANCE
        assert {1, 2} <= {entry["rank"] for entry in alternatives.values()}
    messages = [{"role": "user", "content": "Hello!"}]
    answer = case.app.post(CHAT, messages=messages, max_tokens=1, prompt_logprobs=0)
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_chat(case: Case, stream: bool) -> None:
    messages = [{"role": "user", "content": "Hello! 中é"}]
    body = {"messages": messages, "max_tokens": 8, "logprobs": True, "top_logprobs": 3, "temperature": 0}
    if stream:
        choices = [event["choices"][0] for event in case.app.stream(CHAT, **body)]
        content = "".join(choice["delta"].get("content", "") for choice in choices)
        tokens = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["content"]]
    else:
        [choice] = case.app.post(CHAT, **body)["choices"]
        content, tokens = choice["message"]["content"], choice["logprobs"]["content"]
    assert bytes(byte for token in tokens for byte in token["bytes"]).decode(errors="replace") == content
    prompt = case.app.model.tokenizer.encode(render_chat(case.app.model.tokenizer, messages))
    for number, token in enumerate(tokens):
        [*_, expected] = case.logprobs(prompt)
        index = int(expected.argmax())
        assert abs(token["logprob"] - expected[index]) < TOLERANCE
        best = np.sort(expected)[::-1][:3]
        np.testing.assert_allclose([other["logprob"] for other in token["top_logprobs"]], best, atol=TOLERANCE)
        assert token["top_logprobs"][0] == {key: token[key] for key in ("token", "logprob", "bytes")}
        assert number or len(tokens) <= 8
        prompt.append(index)


def random_text(rng: random.Random) -> str:
    """Of characters from everywhere, among them such as are several tokens, combine, or have no width."""
    ranges = [
        (32, 126),
        (0xA0, 0x17F),
        (0x300, 0x36F),
        (0x400, 0x4FF),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1F6FF),
        (0x200B, 0x200F),
    ]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 12)))


def test_offsets_and_bytes_rebuild_a_thousand_texts(case: Case) -> None:
    rng = random.Random(0)
    prompts = [random_text(rng) for _ in range(1000)]
    body = {"max_tokens": 2, "echo": True, "logprobs": 1, "temperature": 2, "seed": 5}
    requests = [(COMPLETIONS, {"prompt": prompts[start : start + 32], **body}) for start in range(0, 1000, 32)]
    responses = [response for request in requests for response in case.app.requests(request)]
    choices = [choice for response in responses for choice in response.json()["choices"]]
    assert len(choices) == 1000
    for prompt, choice in zip(prompts, choices, strict=True):
        text, logged = choice["text"], choice["logprobs"]
        assert text.startswith(prompt)
        offsets = [*logged["text_offset"], len(text)]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        pieces = [text[start:end] for start, end in pairwise(offsets)]
        data = b"".join(map(token_bytes, logged["tokens"]))
        assert data.decode(errors="replace") == text
        for token, piece in zip(logged["tokens"], pieces, strict=True):
            assert token == piece or token.startswith("bytes:") or token == "<|endoftext|>", logged


def token_bytes(token: str) -> bytes:
    if token == "<|endoftext|>":
        return b""
    if not token.startswith("bytes:"):
        return token.encode()
    return bytes(int(code, 16) for code in re.findall(r"\\x(..)", token))
