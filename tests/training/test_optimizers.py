"""Optimisers: AdamW and Muon are torch's, the others follow their papers' recurrences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from llm_jax.errors import ConfigError
from llm_jax.training import TrainingConfig
from llm_jax.training.optimizer import evaluated_params, make_optimizer, matrices
from llm_jax.training.step import initial_state, make_train_step

LR, STEPS = 0.02, 20
QKV = "transformer_blocks.0.self_attn.qkv_proj.weight"
SHAPES = {
    QKV: (8 + 4 + 4, 8), "transformer_blocks.0.mlp.fc1.weight": (24, 8), "transformer_blocks.0.mlp.fc2.weight": (8, 24),
    "embedding_layer.token_embeddings.weight": (30, 8), "lm_head.weight": (30, 8), "final_norm.weight": (8,),
}  # fmt: skip
FUSED = {QKV: (8, 4, 4)}


def linear(params, frozen, batch, *, dtype, dropout_key):
    """Its gradient is the batch."""
    return sum(jnp.sum(params[name] * batch[name][0]) for name in params), jnp.float32(1), {}


def initial():
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


@functools.cache
def gradients():
    random = np.random.default_rng(1)
    return [{name: random.normal(size=s).astype(np.float32) for name, s in SHAPES.items()} for _ in range(STEPS)]


def ours(**settings):
    """The parameters after each step, and those that are evaluated at the end."""
    config = TrainingConfig(gradient_clip_val=None, weight_decay=0.1, **settings)
    optimizer = make_optimizer(config, beta2=0.95, fused=FUSED)
    state = initial_state(
        {name: jnp.asarray(value) for name, value in initial().items()}, optimizer, jnp.dtype("float32")
    )
    step = make_train_step(linear, optimizer, dtype=jnp.dtype("float32"), seed=0)
    history = []
    for i, gradient in enumerate(gradients()):
        batch = {name: value[None, None] for name, value in gradient.items()}
        state, _ = step(state, {}, {**batch, "weights": np.ones((1, 1), np.float32)}, i, LR)
        history.append({name: np.array(value) for name, value in state.trainable.items()})
    evaluated = evaluated_params(state.optimizer, state.trainable)
    return history, {name: np.array(value) for name, value in evaluated.items()}


def torch_adamw(names, values):
    tensors = {name: torch.nn.Parameter(torch.tensor(values[name])) for name in names}
    decayed = matrices(values)
    groups = [{"params": [t for n, t in tensors.items() if decayed[n] == x], "weight_decay": 0.1 * x} for x in (1, 0)]
    return tensors, torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8)


def run_torch(parts):
    """Steps of optimisers over their own tensors; returns all tensors."""
    for gradient in gradients():
        for tensors, optimizer in parts:
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(gradient[name], dtype=tensor.dtype)
            optimizer.step()
    return {name: tensor.detach().numpy() for tensors, _ in parts for name, tensor in tensors.items()}


def test_adamw_is_torch_s():
    expected = run_torch([torch_adamw(SHAPES, initial())])
    final = ours(optimizer="adamw")[0][-1]
    for name, value in expected.items():
        np.testing.assert_allclose(final[name], value, rtol=2e-6, atol=2e-6)


def test_muon_is_torch_s_on_hidden_matrices_and_adamw_on_the_rest(monkeypatch):
    """torch rounds to bfloat16 before it orthogonalises; here it computes in float64. q, k and v are three matrices."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    values = initial()
    hidden = {name: values[name] for name in SHAPES if name.startswith("transformer_blocks") and name != QKV}
    borders = np.cumsum(FUSED[QKV])[:-1]
    parts = dict(zip("qkv", np.split(values[QKV], borders), strict=True))
    tensors = {name: torch.nn.Parameter(torch.tensor(value).double()) for name, value in (hidden | parts).items()}
    optimizer = torch.optim.Muon(
        tensors.values(), lr=LR, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in gradients():
        split = dict(zip("qkv", np.split(gradient[QKV], borders), strict=True))
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(split.get(name, gradient.get(name))).double()
        optimizer.step()
    expected = {name: tensors[name].detach().numpy() for name in hidden}
    expected[QKV] = np.concatenate([tensors[name].detach().numpy() for name in "qkv"])
    rest = [name for name in SHAPES if name not in expected]
    expected |= run_torch([torch_adamw(rest, values)])
    final = ours(optimizer="muon")[0][-1]
    for name, value in expected.items():
        np.testing.assert_allclose(final[name], value, rtol=2e-5, atol=2e-5, err_msg=name)


def test_a_matrix_of_experts_is_a_stack_of_matrices():
    from llm_jax.training.muon import scale_by_muon

    random = np.random.default_rng(0)
    stack = random.normal(size=(3, 6, 4)).astype(np.float32)
    muon = scale_by_muon(0.95, {})
    together, _ = muon.update({"e": stack}, muon.init({"e": stack}))
    alone, _ = muon.update({"e": stack[1]}, muon.init({"e": stack[1]}))
    np.testing.assert_allclose(together["e"][1], alone["e"], atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
def test_a_first_moment_in_bfloat16_takes_half_and_changes_little(optimizer):
    """The second moment stays float32: rounded to 8 bits, it would stop where a step changes it by less."""
    config = TrainingConfig(optimizer=optimizer, moment_dtype="bfloat16")
    params = {name: jnp.asarray(value) for name, value in initial().items()}
    arrays = [x for x in jax.tree.leaves(make_optimizer(config, beta2=0.95, fused=FUSED).init(params)) if x.ndim]
    narrow = {x.shape for x in arrays if x.dtype == jnp.bfloat16}
    assert narrow == set(SHAPES.values())
    exact = {x.shape for x in arrays if x.dtype == jnp.float32}
    assert exact == {"adamw": set(SHAPES.values()), "muon": {(30, 8), (8,)}, "lion": set()}[optimizer]
    if optimizer != "lion":  # whose updates are signs
        expected, final = (ours(optimizer=optimizer, **more)[0][-1] for more in ({}, {"moment_dtype": "bfloat16"}))
        for name, value in expected.items():
            np.testing.assert_allclose(final[name], value, atol=LR * STEPS * 2.0**-7)


def test_an_optimiser_without_a_first_moment_has_no_dtype_for_it():
    with pytest.raises(ConfigError, match=r"moment_dtype.*bfloat16.*adafactor"):
        TrainingConfig(optimizer="adafactor", moment_dtype="bfloat16")


def test_lion_follows_the_sign_of_its_momentum():
    value, momentum = initial(), {name: np.zeros(shape) for name, shape in SHAPES.items()}
    decayed = matrices(value)
    for gradient in gradients():
        for name, g in gradient.items():
            update = np.sign(0.9 * momentum[name] + 0.1 * g) + 0.1 * decayed[name] * value[name]
            momentum[name] = 0.95 * momentum[name] + 0.05 * g
            value[name] = value[name] - LR * update
    final = ours(optimizer="lion")[0][-1]
    for name, expected in value.items():
        np.testing.assert_allclose(final[name], expected, atol=1e-5)


def test_adafactor_stores_rows_and_columns_in_place_of_a_matrix():
    optimizer = make_optimizer(TrainingConfig(optimizer="adafactor"), beta2=0.95, fused={})
    state = optimizer.init({"w.weight": jnp.zeros((256, 512))})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 1000
    assert optax.tree.norm(jax.tree.map(jnp.subtract, ours(optimizer="adafactor")[0][-1], initial())) > 0


def test_schedule_free_evaluates_the_weighted_average_of_its_steps():
    """arXiv:2405.15682, equations 1 to 3, with Adam's scaling; of equal learning rates all steps weigh the same."""
    z, x = initial(), initial()
    square = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    decayed = matrices(z)
    for step, gradient in enumerate(gradients(), 1):
        for name, g in gradient.items():
            y = 0.1 * z[name] + 0.9 * x[name]
            square[name] = 0.95 * square[name] + 0.05 * g * g
            scaled = g / (np.sqrt(square[name] / (1 - 0.95**step)) + 1e-8)
            z[name] = z[name] - LR * (scaled + 0.1 * decayed[name] * y)
            x[name] = (1 - 1 / step) * x[name] + z[name] / step
    history, evaluated = ours(optimizer="schedule_free")
    for name in SHAPES:
        np.testing.assert_allclose(evaluated[name], x[name], atol=2e-5)
        np.testing.assert_allclose(history[-1][name], 0.1 * z[name] + 0.9 * x[name], atol=2e-5)


def test_an_average_of_the_weights_is_what_is_evaluated():
    history, evaluated = ours(optimizer="adamw", ema_decay=0.5)
    average = initial()
    for step, params in enumerate(history):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * params[name] for name in average}
    for name, value in average.items():
        np.testing.assert_allclose(evaluated[name], value, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "schedule_free"])
def test_a_run_with_each_resumes_and_saves_what_it_evaluates(config, optimizer):
    from llm_jax.checkpoint import load_model
    from llm_jax.training import train

    settings = [f"training.optimizer={optimizer}", "training.scheduler_type=constant", "training.ema_decay=0.9"]
    through = train("lm", config(*settings, "training.epochs=2", directory="through"))
    train("lm", config(*settings, "training.epochs=1", directory="parts"))
    resume = "checkpoint.resume_from_checkpoint=auto"
    parts = train("lm", config(*settings, "training.epochs=2", resume, directory="parts"))
    assert parts.progress == through.progress
    assert through.progress.best.best < through.baseline
    assert load_model(parts.run.last).model.config.hidden_size == 16
