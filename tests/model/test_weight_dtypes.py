"""Weights of every dtype go through the same arithmetic on XLA: logits differ by the weights' rounding alone."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.config import ModelConfig
from llm_jax.kernels import Level, matmul_dispatch
from llm_jax.model import Model, Params, dense_layout, forward_hidden, init_cache, init_params, merge, pack_model

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    max_seq_len=64,
    positions="rotary",
    norm="rms_norm",
    activation="silu",
    use_glu=True,
    qk_norm="head",
    attention_softcap=20.0,
    window_size=9,
    tie_embeddings=True,
)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 24))
EXACT_STEP = 2.0**-11  # whole multiples of it up to 127 are exact in int8 with this scale, and in bfloat16


def rounded(config: ModelConfig) -> Params:
    """Weights that int8 and bfloat16 represent exactly: whole multiples of one step, 127 of them in every row."""
    random = np.random.default_rng(1)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        levels = random.integers(-100, 101, shape)
        levels[..., 0] = 127
        return levels * EXACT_STEP

    params = init_params(config, seed=3)
    return {name: jnp.asarray(draw(x.shape), jnp.float32) if x.ndim > 1 else x for name, x in params.items()}


def logits(model: Model, dtype: str, params: Params, tokens: jax.Array) -> jax.Array:
    """Logits [B, T, V] of a prompt through the cache, computed in `dtype`."""
    B, T = tokens.shape
    cache = init_cache(model.config, B, 32, "bfloat16")
    layout = dense_layout(cache, jnp.zeros(B, jnp.int32), T)
    hidden, _ = forward_hidden(model.config, params, tokens, cache=cache, layout=layout, dtype=jnp.dtype(dtype))
    return merge(model.config, params).head(hidden)


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_bfloat16_and_int8_weights_differ_by_their_rounding_alone(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that both represent exactly give the same logits, within the rounding of what is computed.

    A GPU's program is lowered and run here. On a CPU an int8 product also rounds its input rows to 255 levels, and
    computes in float32: there the two differ by that.
    """
    monkeypatch.setattr(matmul_dispatch, "NATIVE_LINEAR", {})  # a process with a GPU has none
    compute = "bfloat16" if platform == "cuda" else "float32"
    plain = Model(CONFIG, rounded(CONFIG))
    narrow = Model(CONFIG, {k: v.astype(compute) if v.ndim > 1 else v for k, v in plain.params.items()})
    packed = pack_model(plain, "int8", level=Level.XLA)
    anywhere = [jax.export.DisabledSafetyCheck.platform()]

    def run(model: Model, dtype: str) -> np.ndarray:
        program = jax.jit(partial(logits, model, dtype))
        exported = jax.export.export(program, platforms=[platform], disabled_checks=anywhere)
        return np.asarray(exported(model.params, TOKENS).call(model.params, TOKENS), np.float64)

    exact = np.asarray(jax.jit(partial(logits, plain, "float32"))(plain.params, TOKENS), np.float64)
    size = np.abs(exact).max()
    bfloat16, int8 = run(narrow, compute), run(packed, compute)
    rounding = {"cuda": 2.0**-7, "cpu": 1e-6}[platform]  # of what is computed in bfloat16, or in float32
    rows = {"cuda": 0.0, "cpu": 0.004}[platform]  # of int8 products' inputs
    assert np.abs(bfloat16 - exact).max() < rounding * size
    assert np.abs(int8 - exact).max() < (rounding + rows) * size
    assert np.abs(int8 - bfloat16).max() < (rounding + rows) * size


def test_attention_is_one_function_whatever_the_weights_are() -> None:
    """The lowered attention of a plain and of packed models: the same operations on the same types, in order."""
    plain = Model(CONFIG, init_params(CONFIG, seed=3))
    models = plain, pack_model(plain, "bfloat16", level=Level.XLA), pack_model(plain, "int8", level=Level.XLA)
    found = [_operations_on_the_cache(model) for model in models]
    assert len(found[0]) > 20
    assert found[0] == found[1] == found[2]


def _operations_on_the_cache(model: Model) -> list[str]:
    """Operations on keys and values [B, K, S, H] and on scores [B, K, …, S], without the names of their operands."""
    program = jax.jit(partial(logits, model, "bfloat16")).lower(model.params, TOKENS).as_text()
    on_the_cache = re.compile(rf"tensor<{len(TOKENS)}x{CONFIG.kv_heads}x(\d+x)*32x(\d+x)?(f32|bf16|i1)>")
    return [re.sub(r"[%@][\w#:.]+", "%", line) for line in program.splitlines() if on_the_cache.search(line)]
