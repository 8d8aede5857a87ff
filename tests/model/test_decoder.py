"""The decoder against a slow plain version, and the properties that every family shares."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import llm_jax.model
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import ConfigError
from llm_jax.model import dense_layout, init_cache, init_params, param_shapes, rope_frequencies
from llm_jax.model.decoder import Decoder
from tests.compiled import compiled, forward

BASE = {"vocab_size": 37, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "max_seq_len": 24, "dropout": 0.0}
SHAPES = {
    "documented": {},
    "post_norm": {"norm_first": False},
    "learned_gqa_glu": {
        "positions": "learned", "num_kv_heads": 2, "use_glu": True, "activation": "silu", "norm": "rms_norm",
        "qkv_bias": False, "mlp_bias": False, "lm_head_bias": False, "intermediate_size": 20,
    },
    "rotary_mqa_tied": {"positions": "rotary", "num_kv_heads": 1, "tie_embeddings": True, "embedding_scale": 1.0},
    "rotary_partial_qk_norm": {"positions": "rotary", "rope_fraction": 0.5, "qk_norm": "head", "norm": "rms_norm"},
    "alibi": {"positions": "alibi", "num_heads": 4},
    "window": {"positions": "rotary", "window_size": 5},
    "window_on_one_layer": {"positions": "rotary", "window_size": 3, "window_layers": (True, False)},
    "gemma_like": {
        "positions": "rotary", "norm": "rms_norm", "norm_offset": 1.0, "sandwich_norm": True, "attention_softcap": 5.0,
        "logit_softcap": 3.0, "head_dim": 8, "attention_scale": 0.3, "use_glu": True, "activation": "gelu_tanh",
    },
    "longrope": {
        "positions": "rotary", "rope_fraction": 0.5,
        "rope_scaling": RopeScaling(kind="longrope", factors=(3.0,), attention_factor=1.2),
    },
    "cohere_like": {
        "positions": "rotary", "norm_bias": False, "parallel_residual": True, "shared_norm": True, "logit_scale": 0.3,
        "window_size": 5, "window_layers": (True, False), "rope_layers": (True, False), "use_glu": True,
    },
    "neox_like": {"positions": "rotary", "rope_fraction": 0.5, "parallel_residual": True, "norm_offset": 1.0},
    "olmo_like": {
        "positions": "rotary", "norm": "rms_norm", "sandwich_norm": True, "input_norm": False, "qk_norm": "width",
        "num_kv_heads": 2, "residual_scale": 0.4,
    },
    "norm_of_rotated_heads": {"positions": "rotary", "qk_norm": "rotated_head", "num_kv_heads": 2},
    "longrope_beyond_its_context": {
        "positions": "rotary",
        "rope_scaling": RopeScaling(
            kind="longrope", factors=(1.0, 1.5), long_factors=(2.0, 7.0), original_max_seq_len=16
        ),
    },
    "dense_layer_and_shared_expert": {
        "use_moe": True, "num_experts": 4, "top_k": 2, "use_glu": True, "moe_layers": (False, True), "dense_size": 12,
        "shared_expert_size": 20, "shared_expert_gate": True, "intermediate_size": 24,
    },
    "sigmoid_router": {
        "use_moe": True, "num_experts": 5, "top_k": 2, "use_glu": True, "router": "sigmoid", "expert_scale": 2.5,
        "shared_expert_size": 10,
    },
    "gpt_oss_like": {
        "positions": "rotary", "use_moe": True, "num_experts": 4, "top_k": 2, "use_glu": True, "router_bias": True,
        "expert_clamp": 0.5, "attention_sinks": True, "window_size": 5, "window_layers": (True, False),
        "num_kv_heads": 2,
    },
    "experts": {"use_moe": True, "num_experts": 4, "top_k": 2, "use_glu": True},
    "experts_not_renormalized": {"use_moe": True, "num_experts": 3, "top_k": 2, "moe_renormalize": False},
}  # fmt: skip

B, T = 2, 24  # of most tests: programs are compiled once for all


def make(name: str, seed: int = 0) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    config = ModelConfig(**{**BASE, **SHAPES[name]})
    params = init_params(config, seed)
    # Larger than at initialisation, and norms off one, so that a forgotten term cannot hide.
    rng = np.random.default_rng(seed + 1)
    return config, {k: np.float32(np.asarray(v) * 6 + 0.1 * rng.standard_normal(v.shape)) for k, v in params.items()}


def tokens(B: int = B, T: int = T, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, BASE["vocab_size"], (B, T)).astype(np.int32)


def plain_forward(config: ModelConfig, params: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """The decoder in float64, one token, one head and one expert at a time."""
    w = {k: np.asarray(v, np.float64) for k, v in params.items()}
    D, N, K, H = config.hidden_size, config.num_heads, config.kv_heads, config.head_size
    erf = np.vectorize(math.erf)
    acts = {
        "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + np.exp(-x)),
    }
    act = acts[config.activation]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if config.norm == "rms_norm" or "q_norm" in name or "k_norm" in name:
            return x / np.sqrt((x**2).mean() + config.norm_eps) * (w[name + ".weight"] + config.norm_offset)
        scaled = (x - x.mean()) / np.sqrt(x.var() + config.norm_eps) * (w[name + ".weight"] + config.norm_offset)
        return scaled + (w[name + ".bias"] if config.norm_bias else 0.0)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return w[name + ".weight"] @ x + w.get(name + ".bias", 0.0)

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        dims = config.rotary_dim
        out = x.copy()
        for i in range(dims // 2):
            angle = position / config.rope_theta ** (2 * i / dims)
            a, b = x[i], x[i + dims // 2]
            if config.rope_scaling is not None:
                scaling = config.rope_scaling
                is_long = config.max_seq_len > scaling.original_max_seq_len
                angle /= (scaling.long_factors if is_long and scaling.long_factors else scaling.factors)[i]
                a, b = a * config.rope_scaling.magnitude, b * config.rope_scaling.magnitude
            out[i], out[i + dims // 2] = (
                a * math.cos(angle) - b * math.sin(angle),
                b * math.cos(angle) + a * math.sin(angle),
            )
        return out

    def expert(x: np.ndarray, name: str, e: int) -> np.ndarray:
        return w[name + ".weight"][e] @ x + (w[name + ".bias"][e] if name + ".bias" in w else 0.0)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def feed_forward(x: np.ndarray, at: str) -> np.ndarray:
        h = act(linear(x, at + "fc1"))
        if config.use_glu:
            h = h * linear(x, at + "gate_proj")
        return linear(h, at + "fc2")

    def experts(x: np.ndarray, at: str) -> np.ndarray:
        scores = linear(x, at + "router")
        if config.router == "sigmoid":
            scores = sigmoid(scores)
            best = np.argsort(-scores - w[at + "router.correction"])[: config.top_k]
        else:
            scores = np.exp(scores) / np.exp(scores).sum()
            best = np.argsort(-scores)[: config.top_k]
        total = scores[best].sum() if config.moe_renormalize else 1.0
        out = np.zeros(D)
        for e in best:
            h = expert(x, at + "experts.fc1", e)
            gate = expert(x, at + "experts.gate_proj", e) if config.use_glu else 1.0
            if config.expert_clamp is not None:
                h = np.minimum(h, config.expert_clamp)
                h = h * sigmoid(1.702 * h) * (np.clip(gate, -config.expert_clamp, config.expert_clamp) + 1)
            else:
                h = act(h) * gate
            out += config.expert_scale * scores[e] / total * expert(h, at + "experts.fc2", e)
        if config.shared_expert_size is not None:
            share = sigmoid(linear(x, at + "shared_expert_gate")) if config.shared_expert_gate else 1.0
            out += share * feed_forward(x, at + "shared_expert.")
        return out

    def cap(x: np.ndarray, at: float | None) -> np.ndarray:
        return x if at is None else at * np.tanh(x / at)

    logits = np.zeros((*ids.shape, config.vocab_size))
    for b, row in enumerate(ids):
        stream = []
        for t, token in enumerate(row):
            x = w["embedding_layer.token_embeddings.weight"][token] * config.embedding_multiplier
            if config.positions == "learned":
                x = x + w["embedding_layer.positional_encoding.pos_embedding.weight"][t]
            if config.positions == "sinusoidal":
                angle = [t / 10000 ** (2 * (i // 2) / D) for i in range(D)]
                x = x + np.array([math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angle)])
            stream.append(x)
        for layer in range(config.num_layers):
            at = f"transformer_blocks.{layer}."
            heads = []
            for t, x in enumerate(stream):
                h = norm(x, at + "norm1") if config.norm_first and config.input_norm else x
                qkv = linear(h, at + "self_attn.qkv_proj").reshape(N + 2 * K, H)
                q, k, v = list(qkv[:N]), list(qkv[N : N + K]), list(qkv[N + K :])
                if config.qk_norm == "width":
                    q = list(norm(np.concatenate(q), at + "self_attn.q_norm").reshape(N, H))
                    k = list(norm(np.concatenate(k), at + "self_attn.k_norm").reshape(K, H))
                if config.qk_norm == "head":
                    q = [norm(x, at + "self_attn.q_norm") for x in q]
                    k = [norm(x, at + "self_attn.k_norm") for x in k]
                if config.positions == "rotary" and (config.rope_layers is None or config.rope_layers[layer]):
                    q, k = [rotate(x, t) for x in q], [rotate(x, t) for x in k]
                if config.qk_norm == "rotated_head":
                    q = [norm(x, at + "self_attn.q_norm") for x in q]
                    k = [norm(x, at + "self_attn.k_norm") for x in k]
                heads.append((q, k, v))
            nxt = []
            for t, x in enumerate(stream):
                mixed = []
                for n in range(N):
                    kv = n // (N // K)
                    first = 0 if config.window(layer) is None else max(0, t - config.window(layer) + 1)
                    scores = []
                    for s in range(first, t + 1):
                        score = cap(
                            heads[t][0][n] @ heads[s][1][kv] * config.attention_multiplier, config.attention_softcap
                        )
                        if config.positions == "alibi":
                            score -= (t - s) * 2.0 ** (-8 * (n + 1) / N)
                        scores.append(score)
                    if config.attention_sinks:
                        scores.append(w[at + "self_attn.sinks"][n])
                    p = np.exp(np.array(scores) - max(scores))
                    p /= p.sum()
                    mixed.append(sum(p[s - first] * heads[s][2][kv] for s in range(first, t + 1)))
                h = linear(np.concatenate(mixed), at + "self_attn.out_proj")
                before = x
                x = x + config.residual_scale * (norm(h, at + "post_attn_norm") if config.sandwich_norm else h)
                if not config.norm_first:
                    x = norm(x, at + "norm1")
                h = before if config.parallel_residual else x
                if config.norm_first and config.input_norm:
                    h = norm(h, at + ("norm1" if config.shared_norm else "norm2"))
                has_experts = config.use_moe and (config.moe_layers is None or config.moe_layers[layer])
                h = (experts if has_experts else feed_forward)(h, at + "mlp.")
                x = x + config.residual_scale * (norm(h, at + "post_mlp_norm") if config.sandwich_norm else h)
                nxt.append(x if config.norm_first else norm(x, at + "norm2"))
            stream = nxt
        for t, x in enumerate(stream):
            x = norm(x, "final_norm") if config.norm_first else x
            head = w["embedding_layer.token_embeddings.weight"] @ x if config.tie_embeddings else linear(x, "lm_head")
            logits[b, t] = cap(config.logit_scale * head, config.logit_softcap)
    return logits


@pytest.mark.parametrize("name", SHAPES)
def test_equals_a_plain_float64_version(name: str) -> None:
    config, params = make(name)
    ids = tokens()
    np.testing.assert_allclose(forward(config, params, ids), plain_forward(config, params, ids), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_cached_equals_uncached(name: str) -> None:
    """Prefill in two chunks and then single tokens."""
    config, params = make(name)
    ids = tokens(seed=1)
    whole = np.asarray(forward(config, params, ids))
    cache = init_cache(config, B, config.max_seq_len)
    pieces = []
    for start, end in [(0, 7), (7, 14), *((t, t + 1) for t in range(14, T))]:
        layout = dense_layout(cache, jnp.full(B, start, jnp.int32), end - start)
        logits, cache = forward(config, params, ids[:, start:end], cache=cache, layout=layout)
        pieces.append(np.asarray(logits))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_later_tokens_change_nothing_before_them(name: str) -> None:
    config, params = make(name)
    a = tokens()
    b = a.copy()
    b[:, 6:] = (b[:, 6:] + 1) % config.vocab_size
    np.testing.assert_array_equal(forward(config, params, a)[:, :6], forward(config, params, b)[:, :6])


def test_without_causality_later_tokens_do_change_what_is_before_them() -> None:
    config, params = make("documented")
    config = dataclasses.replace(config, is_causal=False)
    a = tokens()
    b = a.copy()
    b[:, 9] = (b[:, 9] + 1) % config.vocab_size
    assert np.abs(forward(config, params, a)[:, 0] - forward(config, params, b)[:, 0]).max() > 1e-4


def test_segments_do_not_see_each_other() -> None:
    config, params = make("rotary_mqa_tied")
    ids = tokens(1, 10)
    segments = jnp.array([[0] * 5 + [1] * 5])
    positions = jnp.array([[*range(5), *range(5)]])
    packed = forward(config, params, ids, segments_BT=segments, positions_BT=positions)
    np.testing.assert_allclose(packed[:, :5], forward(config, params, ids[:, :5]), atol=1e-4)
    np.testing.assert_allclose(packed[:, 5:], forward(config, params, ids[:, 5:]), atol=1e-4)


def test_mask_hides_keys() -> None:
    config, params = make("alibi")
    ids = tokens(1, 6)
    changed = ids.copy()
    changed[0, 2] = (changed[0, 2] + 1) % config.vocab_size
    mask = np.ones((1, 1, 6, 6), bool)
    mask[..., 2] = False
    mask[0, 0, 2, 2] = True
    masked = partial(forward, config, params, mask=jnp.asarray(mask))
    np.testing.assert_array_equal(masked(ids)[:, 3:], masked(changed)[:, 3:])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    config, params = make("learned_gqa_glu")
    ids = tokens(2, 8)

    def loss(config: ModelConfig, params: dict[str, jax.Array]) -> jax.Array:
        logits = llm_jax.model.forward(config, params, ids, dropout_key=jax.random.key(0))
        return jax.nn.logsumexp(logits).sum()

    config = dataclasses.replace(config, dropout=0.2)
    plain, remat = (
        compiled(jax.grad(partial(loss, dataclasses.replace(config, gradient_checkpointing=again))))(params)
        for again in (False, True)
    )
    for name in params:
        np.testing.assert_allclose(plain[name], remat[name], atol=1e-4 * np.abs(plain[name]).max(), err_msg=name)


def test_dropout_keeps_the_expectation_and_needs_a_key() -> None:
    config, params = make("documented")
    config = dataclasses.replace(config, dropout=0.5)
    ids = tokens(1, 6)
    without = forward(config, params, ids)
    np.testing.assert_array_equal(without, forward(dataclasses.replace(config, dropout=0.0), params, ids))
    one, two = (forward(config, params, ids, dropout_key=jax.random.key(i)) for i in (0, 1))
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(one, forward(config, params, ids, dropout_key=jax.random.key(0)))


def test_bfloat16_stays_near_float32() -> None:
    config, params = make("rotary_mqa_tied")
    params = init_params(config)
    ids = tokens()
    exact = forward(config, params, ids)
    rounded = forward(config, params, ids, dtype="bfloat16")
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.02)


def test_initial_parameters_repeat_and_match_the_declared_shapes() -> None:
    config = ModelConfig(**{**BASE, **SHAPES["experts"]})
    params = init_params(config, seed=3)
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in param_shapes(config).items()}
    again, other = init_params(config, seed=3), init_params(config, seed=4)
    assert all(np.array_equal(params[k], again[k]) for k in params)
    assert not np.array_equal(params["lm_head.weight"], other["lm_head.weight"])


def test_padding_row_of_the_embedding_starts_at_zero() -> None:
    params = init_params(ModelConfig(**BASE, padding_idx=5))
    assert not np.any(params["embedding_layer.token_embeddings.weight"][5])


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    scaling = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    plain, scaled = rope_frequencies(64, 500000.0), rope_frequencies(64, 500000.0, scaling)
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 8192 / 4], plain[wavelength < 8192 / 4])
    np.testing.assert_allclose(scaled[wavelength > 8192], plain[wavelength > 8192] / 8, rtol=1e-6)


def test_yarn_keeps_what_turns_often_and_stretches_what_hardly_turns() -> None:
    """Within 4096 positions: pairs of at least 32 turns stay, pairs of at most one are stretched (give or take one)."""
    scaling = RopeScaling(kind="yarn", factor=8.0, original_max_seq_len=4096)
    plain, scaled = rope_frequencies(64, 10000.0), rope_frequencies(64, 10000.0, scaling)
    turns = 4096 * plain / (2 * np.pi)
    often, hardly = np.flatnonzero(turns >= 32), np.flatnonzero(turns <= 1)
    np.testing.assert_allclose(scaled[often[:-1]], plain[often[:-1]], rtol=1e-6)
    np.testing.assert_allclose(scaled[hardly[1:]], plain[hardly[1:]] / 8, rtol=1e-6)
    assert (np.diff(scaled / plain) <= 1e-6).all()
    assert scaling.magnitude == pytest.approx(0.1 * math.log(8) + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
        ({"num_heads": 3}, "hidden_size is 16; it must be a multiple of num_heads"),
        ({"num_kv_heads": 3}, "num_kv_heads is 3; it must be a divisor of num_heads"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"positions": "rotray"}, "positions is 'rotray'; it must be one of sinusoidal"),
        ({"use_moe": True}, "num_experts is 0; it must be at least 1"),
        ({"use_moe": True, "num_experts": 2, "top_k": 3}, "top_k is 3; it must be 1 to num_experts"),
        ({"padding_idx": 37}, "padding_idx is 37; it must be 0 to 36"),
        ({"positions": "rotary", "head_dim": 5}, "head_dim is 5; it must be even"),
        ({"positions": "rotary", "rope_scaling": RopeScaling(kind="longrope")}, "with 2 factors"),
    ],
)
def test_an_impossible_architecture_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**{**BASE, **change})


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_declared_shapes_are_those_of_the_modules(shape: str) -> None:
    config = ModelConfig(**{**BASE, **SHAPES[shape]})
    modules = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: Decoder(config)), nnx.Param))
    declared = {name: spec.shape for name, spec in param_shapes(config).items()}
    assert {".".join(map(str, path)): value.shape for path, value in modules} == declared
