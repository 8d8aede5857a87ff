"""Experts are balanced in training by the loss that transformers computes for Mixtral."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from llm_jax.checkpoint import StoredModel, save_model
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.model import Model, init_params
from llm_jax.model.moe import Router
from llm_jax.training import PreferenceConfig, Setting, TrainingConfig, load_train_config
from llm_jax.training.tasks import TASKS, DistillationTask, PreferenceTask, SupervisedTask
from llm_jax.training.tasks.balance import counted_tokens, router_penalties
from llm_jax.training.tasks.preference_task import REFERENCE
from llm_jax.training.tasks.start import Start

TINY = ModelConfig(
    vocab_size=31, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=24, max_seq_len=24,
    positions="rotary", norm="rms_norm", use_glu=True, activation="silu", qkv_bias=False, mlp_bias=False,
    lm_head_bias=False, embedding_scale=1.0, dropout=0.0, use_moe=True, num_experts=4, top_k=2,
)  # fmt: skip
B, T, FLOAT32, KEY = 4, 11, jnp.dtype("float32"), jax.random.key(0)
SETTINGS = TrainingConfig(router_aux_loss_coef=0.5, router_z_loss_coef=0.25)


def task(kind: Any, settings: TrainingConfig = SETTINGS, config: ModelConfig = TINY, **more: Any) -> Any:
    start = Start(
        config=config, tokenizer=None, stored=None, lora=LoraConfig(), adapter=None, frozen=frozenset(), base=None
    )
    return kind(start=start, train=[], validation=None, floor=("", 0.0), settings=settings, **more)


@pytest.fixture(scope="module")
def params() -> Any:
    """Larger than initial ones, so that routers prefer some experts."""
    return {name: value * (5 if value.ndim > 1 else 1) for name, value in init_params(TINY, 1).items()}


@pytest.fixture(scope="module")
def rows() -> Any:
    """The first tokens are given, the last ones are padding."""
    random, at = np.random.default_rng(3), np.arange(T)
    tokens = random.integers(0, TINY.vocab_size, (B, T + 1)).astype(np.int32)
    weights = ((at >= 2) & (at < random.integers(6, T + 1, (B, 1)))).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


@pytest.mark.parametrize("recompute", [False, True])
def test_penalties_and_the_gradients_of_routers_are_those_of_torch(recompute, params, rows, tmp_path):
    save_model(tmp_path / "mixtral", Model(TINY, params))
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "mixtral", dtype=torch.float64, experts_implementation="eager"
    )
    assert model.config.model_type == "mixtral"
    mask = torch.tensor(np.asarray(counted_tokens(rows)))
    out = model(torch.tensor(rows["inputs"]), output_router_logits=True)
    scores = out.router_logits
    balance = load_balancing_loss_func(scores, TINY.num_experts, TINY.top_k, mask)
    squared = torch.stack([layer.double().logsumexp(-1).square().reshape(B, T)[mask] for layer in scores]).mean()
    logp = out.logits.log_softmax(-1).gather(-1, torch.tensor(rows["targets"]).long()[..., None])[..., 0]
    weights = torch.tensor(rows["weights"]).double()
    loss = -(logp * weights).sum() / weights.sum() + 0.5 * balance + 0.25 * squared
    loss.backward()

    ours = task(SupervisedTask, config=dataclasses.replace(TINY, gradient_checkpointing=recompute))

    def mean(trainable: Any) -> Any:
        total, weight, aux = ours.loss(trainable, {}, rows, dtype=FLOAT32, dropout_key=KEY)
        return total / weight, {name: value / weight for name, value in aux.items()}

    (value, aux), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    assert aux["router_aux_loss"] == pytest.approx(balance.item(), rel=1e-5)
    assert aux["router_z_loss"] == pytest.approx(squared.item(), rel=1e-5)
    gates = [p.grad.numpy() for name, p in model.named_parameters() if name.endswith("gate.weight")]
    for layer, expected in enumerate(gates):
        found = gradient[f"transformer_blocks.{layer}.mlp.router.weight"]
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    assert len(gates) == TINY.num_layers


def test_padding_does_not_count(rows):
    packed = {**rows, "segments": np.asarray(counted_tokens(rows)).astype(np.int32)}
    assert counted_tokens(packed).sum() == counted_tokens(rows).sum() < B * T
    assert counted_tokens(rows)[:, 0].all()  # a prompt does


@pytest.mark.parametrize("kind", ["sft", "dpo", "orpo", "distill"])
def test_penalties_reach_every_objective_in_training_alone(kind, params, rows):
    reference, teacher = {}, StoredModel(None, TINY, {}, None, GenerationDefaults())
    if kind in ("dpo", "orpo"):
        rows = {name: value.reshape(B // 2, 2, T) for name, value in rows.items()}
        more: Any = {"preference": PreferenceConfig(loss=kind)}
        reference = {REFERENCE + name: value for name, value in params.items()} if kind == "dpo" else {}
    else:
        more = {"teacher": teacher} if kind == "distill" else {}
        reference = {f"teacher.{name}": value for name, value in params.items()} if kind == "distill" else {}
    which = {"sft": SupervisedTask, "distill": DistillationTask}.get(kind, PreferenceTask)

    def losses(settings: TrainingConfig, key: Any) -> Any:
        total, weight, aux = task(which, settings, **more).loss(params, reference, rows, dtype=FLOAT32, dropout_key=key)
        return total / weight, {name: value / weight for name, value in aux.items()}

    penalised, plain, measured = jax.jit(
        lambda: (losses(SETTINGS, KEY), losses(TrainingConfig(), KEY), losses(SETTINGS, None))
    )()
    added = 0.5 * penalised[1]["router_aux_loss"] + 0.25 * penalised[1]["router_z_loss"]
    assert penalised[0] == pytest.approx(float(plain[0] + added), rel=1e-5)
    assert added > 0.5 * TINY.top_k
    assert penalised[1].keys() - plain[1].keys() == {"router_aux_loss", "router_z_loss"}
    assert measured[1].keys() == plain[1].keys()


def test_descent_on_the_balance_loss_spreads_tokens_over_experts():
    config = dataclasses.replace(TINY, top_k=1, router="softmax")
    x_MD = jax.random.normal(jax.random.key(1), (64, 16)) + 1.0
    weight_ED = 0.02 * jax.random.normal(jax.random.key(2), (4, 16))
    weight_ED += jnp.array([0.5, 0, 0, 0])[:, None]  # every token visits the first

    def balance(weight_ED: Any) -> Any:
        router, found = Router(config), []
        router.weight.set_value(weight_ED)
        router.observe = lambda *chosen: found.append(router.routing(jnp.ones(64, bool), *chosen))
        router(x_MD)
        return router_penalties(found[0])["router_aux_loss"], found[0].visit_E

    step = jax.jit(jax.value_and_grad(balance, has_aux=True))
    (first, visits), _ = step(weight_ED)
    assert visits.tolist() == [64, 0, 0, 0]
    for _ in range(200):
        (last, visits), gradient = step(weight_ED)
        weight_ED -= 0.1 * gradient
    assert last < 1.5 < 3 < first
    assert max(visits) < 48


@pytest.mark.parametrize("name", ["router_aux_loss_coef", "router_z_loss_coef"])
def test_a_model_without_experts_is_refused(name, tmp_path):
    given = [f"training.{name}=0.01", "model.init_from=llm_jax/demo", f"data.dataset_path={tmp_path}"]
    config = load_train_config(environ={}, overrides=[Setting.parse(flag, "test") for flag in given])
    for kind in ("lm", "regression"):
        with pytest.raises(
            ConfigError, match=rf"training\.{name} is 0\.01, and the model has no experts.*Leave it out"
        ):
            TASKS[kind](config, None)
