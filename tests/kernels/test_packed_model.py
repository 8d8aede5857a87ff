"""A packed model in the engine: the same tokens as the plain one, alone and in company."""

from dataclasses import replace

import numpy as np
import pytest

from llm_jax.config import ModelConfig
from llm_jax.inference import Engine, Request, SamplingParams
from llm_jax.kernels import KINDS, Kind, Level, features
from llm_jax.model import Model, pack_model

NATIVE = [level for level in features() if level != Level.XLA]
LLAMA = ModelConfig(
    vocab_size=101, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, max_seq_len=64,
    positions="rotary", norm="rms_norm", activation="silu", use_glu=True, qkv_bias=False, mlp_bias=False,
    tie_embeddings=True,
)  # fmt: skip
FAMILIES = {
    "llama": LLAMA,
    "documented": ModelConfig(vocab_size=53, hidden_size=32, num_layers=2, num_heads=2, max_seq_len=64),
    "qwen 3": replace(LLAMA, qk_norm=True),
    "gemma 2": replace(
        LLAMA, norm_offset=1.0, sandwich_norm=True, attention_softcap=5.0, window_size=6, activation="gelu_tanh"
    ),
    "alibi, gate with bias": replace(LLAMA, positions="alibi", mlp_bias=True),
    "post-norm": replace(LLAMA, norm_first=False, positions="learned", norm="layer_norm"),
    "experts": replace(LLAMA, use_moe=True, num_experts=4, top_k=2),
}


def tokens(model: Model, prompts: list[tuple[int, ...]], max_batch: int) -> list[list[int]]:
    engine = Engine(model, max_batch=max_batch)
    made: list[list[int]] = [[] for _ in prompts]
    for prompt, out in zip(prompts, made, strict=True):
        sampling = SamplingParams(temperature=0.0, max_new_tokens=12)
        engine.submit(Request(prompt_ids=prompt, sampling=sampling), lambda event, out=out: out.append(event.token))
    while engine.step():
        pass
    return made


PROMPTS = [(1, 2, 3), (4,), (5, 6, 7, 8, 9, 10, 11)]


@pytest.mark.parametrize("level", features())
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_tokens_are_the_plain_models(family: str, level: Level) -> None:
    model = Model.init(FAMILIES[family], seed=3)
    assert tokens(pack_model(model, "float32", level=level), PROMPTS, 2) == tokens(model, PROMPTS, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", NATIVE[-1:])
def test_tokens_do_not_depend_on_batch_mates(kind: Kind, level: Level) -> None:
    model = pack_model(Model.init(LLAMA, seed=3), kind, level=level)
    alone = [tokens(model, [prompt], 1)[0] for prompt in PROMPTS]
    assert tokens(model, PROMPTS, 3) == alone
    assert np.unique(np.concatenate(alone)).size > 1
