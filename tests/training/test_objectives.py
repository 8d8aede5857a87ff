"""Every objective: its loss and its gradient are those that torch computes in float64 from the published formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid
from transformers import AutoModelForCausalLM

from llm_jax.checkpoint import StoredModel, new_adapter, save_model
from llm_jax.checkpoint.families import LLAMA
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.model import Model, freeze, init_params
from llm_jax.training import DistillationConfig, PreferenceConfig, TrainingConfig
from llm_jax.training.tasks import DistillationTask, PreferenceTask, SupervisedTask
from llm_jax.training.tasks.preference_task import REFERENCE
from llm_jax.training.tasks.start import Start

TINY = ModelConfig(
    vocab_size=31, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, max_seq_len=24, positions="rotary",
    norm="rms_norm", use_glu=True, activation="silu", qkv_bias=False, mlp_bias=False, lm_head_bias=False,
    embedding_scale=1.0, dropout=0.0,
)  # fmt: skip
B, T = 3, 11
FLOAT32, KEY = jnp.dtype("float32"), jax.random.key(0)


def start(adapter: Any = None) -> Start:
    return Start(
        config=TINY, tokenizer=None, stored=None, lora=LoraConfig(), adapter=adapter, frozen=frozenset(), base=None
    )


def task(kind: Any, **more: Any) -> Any:
    return kind(start=more.pop("start", start()), train=[], validation=None, floor=("", 0.0), **more)


def random_params(seed: int) -> Any:
    """Larger than initial ones, so that the distributions are not all alike."""
    return {name: value * (3 if value.ndim > 1 else 1) for name, value in init_params(TINY, seed).items()}


def in_torch(params: Any, folder: Any) -> Any:
    save_model(folder, Model(TINY, params))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(parameters, the same model in torch) of a policy and of another model."""
    found = []
    for seed in (1, 2):
        params = random_params(seed)
        found.append((params, in_torch(params, tmp_path_factory.mktemp("model") / "model")))
    return found


def random_rows(rows: int) -> Any:
    """Each row learns what follows some prompt, up to some end."""
    random = np.random.default_rng(3)
    tokens = random.integers(0, TINY.vocab_size, (rows, T + 1)).astype(np.int32)
    begins, ends = random.integers(1, 4, (rows, 1)), random.integers(6, T + 1, (rows, 1))
    at = np.arange(T)
    weights = ((at >= begins) & (at < ends)).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def torch_logp(model: Any, rows: Any) -> Any:
    """(log-probabilities of the targets, weights, logits), float64 [B, T]."""
    logits = model(torch.tensor(rows["inputs"])).logits
    logp = log_softmax(logits, -1).gather(-1, torch.tensor(rows["targets"]).long()[..., None])[..., 0]
    return logp, torch.tensor(rows["weights"]).double(), logits


def torch_gradient(model: Any, loss: Any) -> Any:
    """By the names of our parameters."""
    model.zero_grad()
    loss.backward()
    stored = {name: value.grad.numpy() for name, value in model.named_parameters()}
    return {name: np.asarray(value) for name, value in LLAMA.read_weights(TINY, stored).items()}


def check(task: Any, params: Any, frozen: Any, batch: Any, loss: Any, gradient: Any) -> Any:
    """The mean loss and its gradient, with relative error below 1e-5; returns the other sums, as means."""

    def mean(trainable: Any) -> Any:
        total, weight, aux = task.loss(trainable, frozen, batch, dtype=FLOAT32, dropout_key=KEY)
        assert weight.shape == ()
        return total / weight, {name: value / weight for name, value in aux.items()}

    (value, aux), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    assert grads.keys() == gradient.keys()
    for name, expected in gradient.items():
        error = np.linalg.norm(grads[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-5, (name, error)
    return aux


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_answers(models: Any, z_loss: float) -> None:
    """Cross-entropy on the assistant's tokens, with the z-loss of arXiv:2204.02311; packed rows equal rows apart."""
    (params, model), rows = models[0], random_rows(B)
    labels = torch.tensor(np.where(rows["weights"] == 1, rows["targets"], -100)).long()
    _, weights, logits = torch_logp(model, rows)
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss = loss + z_loss * (logits.logsumexp(-1).square() * weights).sum() / weights.sum()
    packed = {name: value.reshape(1, -1) for name, value in rows.items()}
    packed["segments"] = np.repeat(np.arange(1, B + 1), T)[None].astype(np.int32)
    packed["positions"] = np.tile(np.arange(T), B)[None].astype(np.int32)
    ours = task(SupervisedTask, settings=TrainingConfig(z_loss=z_loss))
    gradient = torch_gradient(model, loss)
    for batch in (rows, packed) if z_loss else (packed,):
        check(ours, params, {}, batch, loss, gradient)


def paired(rows: Any) -> Any:
    """[2 B, T] -> [B, 2, T], and one more pair that only pads the batch."""
    pairs = {name: value.reshape(2, -1, T).swapaxes(0, 1) for name, value in rows.items()}
    return {name: np.concatenate([value, np.zeros_like(value[:1])]) for name, value in pairs.items()}


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}, {"loss": "dpo_norm"}, {"loss": "orpo"}])
def test_preferences(models: Any, settings: Any) -> None:
    """DPO as in arXiv:2305.18290 with conservative smoothing, its length-normalised form, ORPO as in 2403.07691."""
    (params, model), (before, reference) = models
    rows, config = random_rows(2 * B), PreferenceConfig(beta=0.3, **settings)
    logp, weights, _ = torch_logp(model, rows)
    with torch.no_grad():
        base, *_ = torch_logp(reference, rows)
    lengths = weights.sum(-1) if config.loss != "dpo" else 1.0
    now, then = ((x * weights).sum(-1) / lengths for x in (logp, base))
    (chosen, rejected), (first, second) = now.split(B), then.split(B)
    if config.loss == "orpo":
        log_odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
        loss = (-chosen - 0.3 * logsigmoid(log_odds)).mean()
        frozen = {}
    else:
        margin, wrong = 0.3 * ((chosen - first) - (rejected - second)), config.label_smoothing
        loss = (-logsigmoid(margin) * (1 - wrong) - logsigmoid(-margin) * wrong).mean()
        frozen = {REFERENCE + name: value for name, value in before.items()}
    ours = task(PreferenceTask, preference=config)
    aux = check(ours, params, frozen, paired(rows), loss, torch_gradient(model, loss))
    if config.loss != "orpo":
        assert aux["margin"] == pytest.approx(margin.mean().item(), rel=1e-5)
        assert aux["accuracy"] == pytest.approx((margin > 0).double().mean().item())
    batch = {name: np.stack([value, value]) for name, value in paired(rows).items()}
    assert ours.weigh(batch) == 2 * B, "of all micro-batches, without the pair that pads"


def test_distillation(models: Any) -> None:
    """weight · T² · KL(teacher, student) + (1 - weight) · cross-entropy, as in arXiv:1503.02531."""
    (params, model), (taught, teacher) = models
    rows, temperature = random_rows(B), 2.0
    logp, weights, logits = torch_logp(model, rows)
    with torch.no_grad():
        target = log_softmax(teacher(torch.tensor(rows["inputs"])).logits / temperature, -1)
    divergence = (target.exp() * (target - log_softmax(logits / temperature, -1))).sum(-1)
    loss = ((0.7 * temperature**2 * divergence - 0.3 * logp) * weights).sum() / weights.sum()
    stored = StoredModel("", TINY, {}, None, GenerationDefaults())
    ours = task(DistillationTask, teacher=stored, distillation=DistillationConfig(temperature=temperature, weight=0.7))
    frozen = {"teacher." + name: value for name, value in taught.items()}
    aux = check(ours, params, frozen, rows, loss, torch_gradient(model, loss))
    assert aux["divergence"] == pytest.approx(((divergence * weights).sum() / weights.sum()).item(), rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("int8", 0.02), ("int4", 0.25)])
def test_low_rank_factors_beside_a_frozen_base_of_few_bytes(models: Any, dtype: Any, tolerance: float) -> None:
    """The gradient is that beside the base in float32, up to the rounding of its weights."""
    (params, _), rows = models[0], random_rows(B)
    adapter = new_adapter(LoraConfig(rank=3), TINY)
    random = np.random.default_rng(0)
    lora = {name: random.normal(size=shape).astype(np.float32) * 0.1 for name, shape in adapter.shapes().items()}
    ours = task(SupervisedTask, start=start(adapter))
    frozen = {name: freeze(TINY, name, value, dtype) for name, value in params.items()}
    if dtype != "bfloat16":  # of which there are two, one for the gradient
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(frozen)) < sum(value.nbytes for value in params.values())

    def gradient(base: Any) -> Any:
        return jax.jit(jax.grad(lambda x: ours.loss(x, base, rows, dtype=FLOAT32, dropout_key=None)[0]))(lora)

    def flat(tree: Any) -> Any:
        return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])

    found, expected = flat(gradient(frozen)), flat(gradient(params))
    assert 0 < np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_low_rank_factors(models: Any, tmp_path: Any) -> None:
    """Their gradients follow from that of the merged weight W + s B A: dB = s dW Aᵀ and dA = s Bᵀ dW."""
    (params, _), rows = models[0], random_rows(B)
    adapter = new_adapter(LoraConfig(rank=3, alpha=6.0), TINY)
    random = np.random.default_rng(0)
    lora = {name: random.normal(size=shape).astype(np.float32) * 0.3 for name, shape in adapter.shapes().items()}
    exact = {name: np.asarray(value, np.float64) for name, value in params.items()}
    for module in adapter.modules:
        for part, where in module.parts():
            change = 2.0 * lora[module.b][where].astype(np.float64) @ lora[module.a].astype(np.float64)
            exact[f"{part.linear}.weight"][part.start : part.start + part.size] += change
    model = in_torch(exact, tmp_path / "model")
    logp, weights, _ = torch_logp(model, rows)
    loss = -(logp * weights).sum() / weights.sum()
    merged = torch_gradient(model, loss)
    gradient = {}
    for module in adapter.modules:
        dW = np.concatenate([merged[f"{p.linear}.weight"][p.start : p.start + p.size] for p in module.outputs])
        gradient[module.b], gradient[module.a] = 2 * dW @ lora[module.a].T, 2 * lora[module.b].T @ dW
    check(task(SupervisedTask, start=start(adapter)), lora, params, rows, loss, gradient)
