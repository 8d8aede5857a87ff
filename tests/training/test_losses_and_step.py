"""The loss and the optimiser step do what torch does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.config import ModelConfig
from llm_jax.model import forward, forward_hidden, init_params
from llm_jax.training import adamw, initial_state, make_train_step, next_token_loss
from llm_jax.training.optimizer import matrices
from llm_jax.training.precision import GROW_AFTER, LossScale
from llm_jax.training.step import make_eval_step
from llm_jax.training.tasks import squared_error

TINY = ModelConfig(
    vocab_size=17, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=12, positions="rotary", dropout=0.0
)


def decoder_loss(trainable, frozen, batch, *, dtype, dropout_key, config=TINY):
    params = frozen | trainable
    hidden, _ = forward_hidden(config, params, batch["inputs"], dtype=dtype, dropout_key=dropout_key)
    return *next_token_loss(config, params, hidden, batch["targets"], batch["weights"]), {}


def random_batch(size, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 17, (size, 13)).astype(np.int32)
    weights = np.ones((size, 12), np.float32)
    weights[0, 7:] = 0
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def micro_batches(batch, count):
    return {name: value.reshape(count, -1, *value.shape[1:]) for name, value in batch.items()}


def test_next_token_loss_is_torch_cross_entropy():
    random = np.random.default_rng(0)
    hidden, targets = random.normal(size=(3, 5, 16)).astype(np.float32) * 4, random.integers(0, 17, (3, 5))
    params = init_params(TINY)
    weights = np.array([[1] * 5, [1] * 5, [1, 1, 0, 0, 0]], np.float32)
    total, count = next_token_loss(TINY, params, jnp.asarray(hidden), jnp.asarray(targets), jnp.asarray(weights))
    labels = torch.tensor(np.where(weights == 1, targets, -100)).flatten()
    logits = hidden @ np.asarray(params["lm_head.weight"]).T
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), labels, ignore_index=-100)
    assert total / count == pytest.approx(expected.item(), rel=1e-6)


def test_squared_error_is_torch_mse():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 6, 3)).astype(np.float32)
    total, count = squared_error(jnp.asarray(a), jnp.asarray(b), jnp.ones(6))
    expected = torch.nn.functional.mse_loss(torch.tensor(a), torch.tensor(b))
    assert total / count == pytest.approx(expected.item(), rel=1e-6)


def test_a_new_model_guesses_uniformly():
    total, count, _ = decoder_loss(init_params(TINY), {}, random_batch(8), dtype=jnp.dtype("float32"), dropout_key=None)
    assert total / count == pytest.approx(np.log(17), rel=0.02)


def torch_adamw(params, gradients, *, lr, clip):
    tensors = {name: torch.nn.Parameter(torch.tensor(np.asarray(value))) for name, value in params.items()}
    decayed = [t for name, t in tensors.items() if matrices(params)[name]]
    others = [t for name, t in tensors.items() if not matrices(params)[name]]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)
    for gradient in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(np.asarray(gradient[name]))
        torch.nn.utils.clip_grad_norm_(tensors.values(), clip)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_adamw_and_clipping_are_torch_s(clip):
    random = np.random.default_rng(0)
    shapes = {"a.weight": (4, 3), "a.bias": (4,), "norm.weight": (3,), "experts.bias": (2, 4)}
    params = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    gradients = [{name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()} for _ in range(5)]
    expected = torch_adamw(params, gradients, lr=0.01, clip=clip)

    def linear(params, frozen, batch, *, dtype, dropout_key):  # its gradient is the batch
        return sum(jnp.sum(params[name] * batch[name][0]) for name in params), jnp.float32(1), {}

    optimizer = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=clip)
    state = initial_state(params, optimizer, jnp.dtype("float32"))
    step = make_train_step(linear, optimizer, dtype=jnp.dtype("float32"), seed=0)
    for i, gradient in enumerate(gradients):
        batch = {name: value[None, None] for name, value in gradient.items()}
        state, metrics = step(state, {}, {**batch, "weights": np.ones((1, 1), np.float32)}, i, 0.01)
        norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
        assert metrics.grad_norm == pytest.approx(norm, rel=1e-5), "reported before clipping"
    for name, value in expected.items():
        np.testing.assert_allclose(state.trainable[name], value, rtol=2e-6, atol=1e-6)


def test_weight_decay_spares_biases_and_norms():
    shape = {"vocab_size": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    params = init_params(ModelConfig(**shape, use_moe=True, num_experts=2, top_k=1))
    decayed = {name for name, decays in matrices(params).items() if decays}
    assert "transformer_blocks.0.mlp.experts.fc1.weight" in decayed
    assert not {name for name in decayed if name.endswith("bias") or "norm" in name}


@functools.cache
def compiled(config, dtype, clip, seed):
    optimizer = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=clip)
    loss = functools.partial(decoder_loss, config=config)
    return optimizer, make_train_step(loss, optimizer, dtype=jnp.dtype(dtype), seed=seed)


def run_steps(count, *, batch, config=TINY, dtype="float32", clip=1.0, seed=0):
    optimizer, step = compiled(config, dtype, clip, seed)
    state = initial_state(init_params(config), optimizer, jnp.dtype(dtype))
    losses = []
    for i in range(count):
        state, metrics = step(state, {}, batch, i, 3e-3)
        losses.append(metrics.loss.item())
    return state, losses


def test_accumulated_micro_batches_equal_the_big_batch():
    """Also where padding is spread unevenly over them, and with clipping at work."""
    batch = random_batch(8)
    whole, whole_losses = run_steps(3, batch=micro_batches(batch, 1), clip=0.1)
    pieces, piece_losses = run_steps(3, batch=micro_batches(batch, 4), clip=0.1)
    np.testing.assert_allclose(piece_losses, whole_losses, rtol=1e-5)
    for name, value in whole.trainable.items():
        np.testing.assert_allclose(pieces.trainable[name], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_further_sums_of_a_loss_become_means(count):
    """Over the micro-batches of a step as over a batch of validation."""

    def loss_and_correct(trainable, frozen, batch, *, dtype, dropout_key):
        logits = forward(TINY, trainable, batch["inputs"], dtype=dtype, dropout_key=dropout_key)
        correct = (logits.argmax(-1) == batch["targets"]) * batch["weights"]
        total, weight, _ = decoder_loss(trainable, frozen, batch, dtype=dtype, dropout_key=dropout_key)
        return total, weight, {"accuracy": correct.sum()}

    batch, dtype = random_batch(8), jnp.dtype("float32")
    optimizer = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=1.0)
    state = initial_state(init_params(TINY), optimizer, dtype)
    loss, weight, aux = make_eval_step(loss_and_correct, dtype=dtype)(state.trainable, {}, batch)
    step = make_train_step(loss_and_correct, optimizer, dtype=dtype, seed=0)
    _, metrics = step(state, {}, micro_batches(batch, count), 0, 1e-3)
    assert metrics.loss.item() == pytest.approx(loss.item() / weight.item(), rel=1e-5)
    assert metrics.aux["accuracy"].item() == pytest.approx(aux["accuracy"].item() / weight.item()) != 0


def test_it_learns_the_next_token_not_the_present_one():
    """On … n, n+1, n+2 … copying the input would be wrong everywhere."""
    start = np.arange(8)[:, None]
    tokens = ((start + np.arange(13)) % 17).astype(np.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((8, 12), np.float32)}
    state, losses = run_steps(150, batch=micro_batches(batch, 1))
    assert losses[-1] < 0.1
    predicted = forward(TINY, state.trainable, jnp.asarray([[3, 4, 5, 6]])).argmax(-1)
    assert predicted.tolist() == [[4, 5, 6, 7]]


def test_dropout_depends_on_seed_and_step_alone():
    config = ModelConfig(**{**TINY.to_dict(), "dropout": 0.5})
    batch = micro_batches(random_batch(4), 1)
    first, again, other = (run_steps(3, batch=batch, config=config, seed=s)[1] for s in (1, 1, 2))
    assert first == again != other


def test_remat_changes_nothing_but_memory():
    config = ModelConfig(**{**TINY.to_dict(), "gradient_checkpointing": True})
    batch = micro_batches(random_batch(4), 1)
    np.testing.assert_allclose(run_steps(3, batch=batch, config=config)[1], run_steps(3, batch=batch)[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_follow_float32(dtype):
    batch = micro_batches(random_batch(8), 1)
    state, losses = run_steps(20, batch=batch, dtype=dtype)
    np.testing.assert_allclose(losses, run_steps(20, batch=batch)[1], rtol=0.02)
    assert {value.dtype for value in state.trainable.values()} == {jnp.dtype("float32")}


def test_an_overflowing_float16_step_is_skipped_and_halves_the_scale():
    def overflowing(params, frozen, batch, *, dtype, dropout_key):
        return jnp.sum(params["w.weight"].astype(dtype) * dtype.type(6e4)).astype(jnp.float32), jnp.float32(1), {}

    optimizer = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=1.0)
    state = initial_state({"w.weight": jnp.ones((2, 2))}, optimizer, jnp.dtype("float16"))
    before = state.loss_scale.scale.item()
    step = make_train_step(overflowing, optimizer, dtype=jnp.dtype("float16"), seed=0)
    state, metrics = step(state, {}, {"weights": np.ones((1, 1), np.float32)}, 0, 0.1)
    assert not metrics.applied
    assert state.trainable["w.weight"].tolist() == [[1, 1], [1, 1]]
    assert state.loss_scale.scale == before / 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_the_loss_scale_doubles_after_a_run_of_good_steps():
    scale = LossScale(jnp.float32(8), jnp.int32(GROW_AFTER - 1))
    assert scale.adjusted(jnp.bool_(True)) == (16, 0)
    assert scale.adjusted(jnp.bool_(False)) == (4, 0)
    assert LossScale(jnp.float32(8), jnp.int32(3)).adjusted(jnp.bool_(True)) == (8, 4)
