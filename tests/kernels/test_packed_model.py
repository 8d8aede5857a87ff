"""A packed model: the plain one's logits, and the same tokens alone and in company."""

import weakref
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import demo
from llm_jax.checkpoint import load_model
from llm_jax.config import ModelConfig
from llm_jax.inference import Engine, Request, SamplingParams, TokenEvent
from llm_jax.kernels import Level, WeightDtype, features
from llm_jax.model import (
    KVCache,
    Model,
    Params,
    cast_model,
    dense_layout,
    forward,
    forward_hidden,
    init_cache,
    kernel_level,
    merge,
    pack_model,
)

LLAMA = ModelConfig(
    vocab_size=101, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, max_seq_len=64,
    positions="rotary", norm="rms_norm", activation="silu", use_glu=True, qkv_bias=False, mlp_bias=False,
    tie_embeddings=True,
)  # fmt: skip
FAMILIES = {
    "llama": LLAMA,
    "documented": ModelConfig(vocab_size=53, hidden_size=32, num_layers=2, num_heads=2, max_seq_len=64),
    "qwen 3": replace(LLAMA, qk_norm="head"),
    "gemma 2": replace(
        LLAMA, norm_offset=1.0, sandwich_norm=True, attention_softcap=5.0, window_size=6, activation="gelu_tanh"
    ),
    "alibi, gate with bias": replace(LLAMA, positions="alibi", mlp_bias=True),
    "post-norm": replace(LLAMA, norm_first=False, positions="learned", norm="layer_norm"),
    "experts": replace(LLAMA, use_moe=True, num_experts=4, top_k=2),
    "cohere 2": replace(
        LLAMA,
        norm="layer_norm",
        norm_bias=False,
        parallel_residual=True,
        shared_norm=True,
        logit_scale=0.3,
        window_size=6,
        window_layers=(True, False),
        rope_layers=(True, False),
    ),
    "olmo 2, granite": replace(
        LLAMA, sandwich_norm=True, input_norm=False, qk_norm="width", residual_scale=0.4, rope_fraction=0.5
    ),
    "hunyuan, nemotron": replace(
        LLAMA, norm="layer_norm", norm_offset=1.0, qk_norm="rotated_head", use_glu=False, activation="relu2"
    ),
    "glm 4.5": replace(
        LLAMA,
        use_moe=True,
        num_experts=4,
        top_k=2,
        moe_layers=(False, True),
        dense_size=48,
        shared_expert_size=32,
        router="sigmoid",
    ),
    "gpt-oss": replace(
        LLAMA,
        use_moe=True,
        num_experts=4,
        top_k=2,
        mlp_bias=True,
        router_bias=True,
        expert_clamp=0.5,
        attention_sinks=True,
        window_size=6,
        window_layers=(True, False),
    ),
}


whole = jax.jit(forward, static_argnums=0)


@lru_cache
def plain(family: str) -> Model:
    return Model.init(FAMILIES[family], seed=3)


def step_logits(model: Model, tokens: np.ndarray, lengths: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Logits of one decode step behind `lengths` cached tokens of each row."""

    @jax.jit
    def run(params: Params) -> jax.Array:
        config, rows = model.config, jnp.arange(len(tokens))
        empty = init_cache(config, len(tokens), tokens.shape[1], level=kernel_level(model))
        layout = dense_layout(empty, jnp.zeros(len(tokens), jnp.int32), tokens.shape[1])
        _, cache = forward_hidden(config, params, tokens, cache=empty, layout=layout)
        assert cache is not None
        last = jnp.asarray(tokens)[rows, lengths][:, None]
        layout = replace(layout, cached_R=jnp.asarray(lengths), new_R=jnp.asarray(active, jnp.int32))
        hidden, _ = forward_hidden(config, params, last, cache=cache, layout=layout)
        return merge(config, params).head(hidden[:, 0])

    return np.asarray(run(model.params))


@pytest.mark.parametrize(
    ("family", "level"),
    [*((name, features()[-1]) for name in FAMILIES), *(("llama", level) for level in features()[:-1])],
)
def test_a_decode_step_gives_the_whole_forwards_logits(family: str, level: Level) -> None:
    model = plain(family)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, 20))
    lengths, active = np.array([0, 3, 19, 11], np.int32), np.array([True, True, True, False])
    expected = np.asarray(whole(model.config, model.params, jnp.asarray(tokens)))[np.arange(4), lengths]
    actual = step_logits(pack_model(model, "float32", level=level), tokens, lengths, active)
    np.testing.assert_allclose(actual[active], expected[active], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_weights_stay_close(dtype: WeightDtype) -> None:
    model = plain("llama")
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 101, (2, 20)))
    packed = pack_model(model, dtype)
    logits, exact = (np.asarray(whole(m.config, m.params, tokens)) for m in (packed, model))
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("level", features())
def test_tokens_behind_a_cache_give_the_whole_forwards_logits(level: Level) -> None:
    model = plain("llama")
    packed = pack_model(model, "float32", level=level)
    tokens = np.random.default_rng(1).integers(0, 101, (2, 20))
    expected = np.asarray(whole(model.config, model.params, jnp.asarray(tokens)))

    @jax.jit
    def run(params: Params, tokens: jax.Array, cache: KVCache, cached: int) -> tuple[jax.Array, KVCache | None]:
        layout = dense_layout(cache, jnp.full(2, cached), tokens.shape[1])
        hidden, cache = forward_hidden(packed.config, params, tokens, cache=cache, layout=layout)
        return merge(packed.config, params).head(hidden), cache

    cache, start = init_cache(packed.config, 2, 20, level=level), 0
    for T in (9, 8, 1, 2):
        logits, cache = run(packed.params, jnp.asarray(tokens[:, start : start + T]), cache, start)
        np.testing.assert_allclose(np.asarray(logits), expected[:, start : start + T], rtol=1e-4, atol=1e-5)
        start += T


@pytest.mark.parametrize("level", [Level.XLA, features()[-1]])
def test_an_int8_cache_keeps_the_demo_models_perplexity(level: Level) -> None:
    loaded = load_model(demo.PATH)
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode(Path("data/dummy_corpus.txt").read_text("utf-8")[:40_000])
    tokens = jnp.asarray(ids[: len(ids) // 128 * 128]).reshape(-1, 128)
    model = pack_model(loaded.model, "float32", level=level)

    @partial(jax.jit, static_argnames="dtype")
    def perplexity(params: Params, dtype: str) -> jax.Array:
        B, T = tokens.shape
        cache = init_cache(model.config, B, T, dtype, level=level)
        layout = dense_layout(cache, jnp.zeros(B, jnp.int32), T)
        hidden, _ = forward_hidden(model.config, params, tokens, cache=cache, layout=layout)
        chance = jax.nn.log_softmax(merge(model.config, params).head(hidden[:, :-1]))
        return jnp.exp(-jnp.take_along_axis(chance, tokens[:, 1:, None], axis=-1).mean())

    exact, narrow = (float(perplexity(model.params, dtype)) for dtype in ("float32", "int8"))
    assert narrow == pytest.approx(exact, rel=0.01)


def test_a_model_is_cast_once_until_a_weight_is_another() -> None:
    model = Model.init(LLAMA, seed=3)
    first, _ = cast_model(model, "float32")
    again, _ = cast_model(model, "float32")
    assert all(again.params[name] is array for name, array in first.params.items())
    model.params["transformer_blocks.1.mlp.fc2.weight"] *= 2
    for dtype in ("float32", "int8", "float32"):
        actual, _ = cast_model(model, dtype)
        fresh, _ = cast_model(replace(model), dtype)
        jax.tree.map(np.testing.assert_array_equal, actual.params, fresh.params)


def test_what_a_model_was_cast_to_goes_with_it() -> None:
    model = Model.init(LLAMA, seed=3)
    packed = weakref.ref(cast_model(model, "float32")[0].params["lm_head.weight"])
    assert packed() is not None
    del model
    assert packed() is None


@pytest.mark.skipif(len(features()) == 1, reason="no native kernels here")
def test_tokens_do_not_depend_on_batch_mates() -> None:
    engine = Engine(plain("llama"), max_batch=3, dtype="int8")
    sampling = SamplingParams(temperature=1.0, max_new_tokens=12, seed=5)

    def hear(out: list[int], event: TokenEvent | Exception) -> None:
        assert isinstance(event, TokenEvent)
        out.append(event.token)

    def run(*prompts: tuple[int, ...]) -> list[list[int]]:
        made: list[list[int]] = [[] for _ in prompts]
        for prompt, out in zip(prompts, made, strict=True):
            engine.submit(Request(prompt_ids=prompt, sampling=sampling), partial(hear, out))
        while engine.step():
            pass
        return made

    prompts = (1, 2, 3), (4,), (5, 6, 7, 8, 9, 10, 11)
    assert run(*prompts) == [run(prompt)[0] for prompt in prompts]
