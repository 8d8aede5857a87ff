"""Log-probabilities in chunks of tokens: torch's in float64, their gradients, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.config import ModelConfig
from llm_jax.model import init_params
from llm_jax.training.tasks import losses, next_token_loss, token_log_probs

B, T, D, V = 3, 7, 16, 37
BASE = {"vocab_size": V, "hidden_size": D, "num_layers": 1, "num_heads": 2, "max_seq_len": T, "positions": "rotary"}
HEADS = {
    "biased": {},
    "tied, scaled, capped": {"tie_embeddings": True, "logit_scale": 0.3, "logit_softcap": 2.0},
}


@pytest.fixture(autouse=True)
def _three_tokens_a_chunk(monkeypatch):
    """T is no multiple of it."""
    monkeypatch.setattr(losses, "CPU_CHUNK_BYTES", 4 * B * V * 3)


def case(name):
    config = ModelConfig(**BASE, **HEADS[name])
    random = np.random.default_rng(0)
    prefix = "embedding_layer.token_embeddings." if config.tie_embeddings else "lm_head."
    params = init_params(config)
    params |= {n: random.normal(size=x.shape).astype(np.float32) for n, x in params.items() if n.startswith(prefix)}
    hidden = random.normal(size=(B, T, D)).astype(np.float32)
    targets = random.integers(0, V, (B, T))
    factors = random.normal(size=(2, B, T)).astype(np.float32)  # of log-probabilities and of logsumexps
    return config, params, prefix, hidden, targets, factors


def in_torch(config, params, prefix, hidden, targets):
    """Log-probabilities and logsumexps in float64, and what they depend on."""
    leaves = {n: torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True) for n, x in params.items()}
    leaves["hidden"] = torch.tensor(hidden, dtype=torch.float64, requires_grad=True)
    logits = leaves["hidden"] @ leaves[f"{prefix}weight"].T
    if f"{prefix}bias" in leaves:
        logits = logits + leaves[f"{prefix}bias"]
    logits = logits * config.logit_scale
    if config.logit_softcap is not None:
        logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
    logsumexp = logits.logsumexp(-1)
    return logits.gather(-1, torch.tensor(targets)[..., None])[..., 0] - logsumexp, logsumexp, leaves


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_float64(name):
    config, params, prefix, hidden, targets, factors = case(name)
    logp, logsumexp, leaves = in_torch(config, params, prefix, hidden, targets)
    (logp * torch.tensor(factors[0]) + logsumexp * torch.tensor(factors[1])).sum().backward()

    def weighted(params, hidden):
        results = token_log_probs(config, params, hidden, targets)
        return sum(jnp.sum(x * factor) for x, factor in zip(results, factors, strict=True)), results

    (_, results), of = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(params, hidden)
    for ours, expected in zip(results, (logp, logsumexp), strict=True):
        np.testing.assert_allclose(ours, expected.detach(), rtol=1e-6, atol=1e-6)
    compare(of[0], of[1], leaves, prefix)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_has_the_gradient_of_float64_times_what_comes_back(name):
    config, params, prefix, hidden, targets, (weights, _) = case(name)
    logp, _, leaves = in_torch(config, params, prefix, hidden, targets)
    (-3 * (logp * torch.tensor(weights)).sum()).backward()

    def loss(params, hidden):
        total, weight = next_token_loss(config, params, hidden, targets, weights)
        return 3 * total, weight

    (value, weight), of = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, hidden)
    assert value == pytest.approx(-3 * (logp.detach().numpy() * weights).sum(), rel=1e-6)
    assert weight == pytest.approx(weights.sum(), rel=1e-6)
    compare(of[0], of[1], leaves, prefix)


def compare(of_params, of_hidden, leaves, prefix):
    for name, x in {**of_params, "hidden": of_hidden}.items():
        if name.startswith(prefix) or name == "hidden":
            expected = leaves[name].grad.numpy()
            np.testing.assert_allclose(x, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=name)
        else:
            assert not np.any(x), name


def products(lowered):
    text = lowered.as_text()
    return text.count("stablehlo.dot_general") + text.count("@llm_dense(")


def test_a_loss_multiplies_three_times_with_the_head_and_with_a_frozen_one_twice():
    config, params, _, hidden, targets, (weights, _) = case("biased")

    def loss(trainable, frozen, hidden):
        return next_token_loss(config, frozen | trainable, hidden, targets, weights)[0]

    assert products(jax.jit(jax.grad(loss, (0, 2))).lower(params, {}, hidden)) == 3
    assert products(jax.jit(jax.grad(loss, 2)).lower({}, params, hidden)) == 2


def test_memory_is_that_of_a_chunk(monkeypatch):
    """8192 tokens, a vocabulary of 128,000: logits of all of them would be 4.2 GB."""
    monkeypatch.undo()
    config = ModelConfig(**{**BASE, "vocab_size": 128_000, "max_seq_len": 2048})

    def loss(params, hidden, targets, weights):
        return next_token_loss(config, params, hidden, targets, weights)[0]

    shape = {"lm_head.weight": (128_000, D), "lm_head.bias": (128_000,)}
    params = {name: jax.ShapeDtypeStruct(x, jnp.float32) for name, x in shape.items()}
    hidden, targets, weights = (
        jax.ShapeDtypeStruct(x, dtype)
        for x, dtype in (((4, 2048, D), jnp.float32), ((4, 2048), jnp.int32), ((4, 2048), jnp.float32))
    )
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, hidden, targets, weights).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.1e9
