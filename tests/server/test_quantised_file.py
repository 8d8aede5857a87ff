"""A GGUF file in blocks of few bits, as people download them, is served at its own precision."""

from pathlib import Path

import httpx

from llm_jax import demo
from llm_jax.checkpoint import convert, open_model
from llm_jax.hub import load_with_tokenizer
from llm_jax.inference import SamplingParams, continue_prompts
from tests.server.live import running

PROMPT = "Once upon a time there was"


def test_it_answers_as_the_same_weights_do_in_python(tmp_path: Path) -> None:
    file = tmp_path / "demo.gguf"
    convert(open_model(demo.PATH), file, dtype="q8_0")
    with running(model_path=file, max_model_len=128) as server:
        body = {"prompt": PROMPT, "max_tokens": 20, "temperature": 0}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
        types = next(line["types"] for line in server.log if line["event"] == "weights")
    loaded, tokenizer = load_with_tokenizer(str(file))
    greedy = SamplingParams(max_new_tokens=20, temperature=0.0, stop_ids=loaded.generation.eos_ids)
    pieces = continue_prompts(loaded.model, tokenizer, [PROMPT], greedy, dtype="auto")
    assert answer["choices"][0]["text"] == "".join(piece.text for _, piece in pieces)
    assert types.startswith("Q8_0")
