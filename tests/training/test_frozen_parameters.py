"""Frozen parameters are read where they lie: no copy, no constant, no gradient, no optimiser state.

FROZEN_MEGABYTES=1024 makes the frozen tree of the memory test a gigabyte.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.checkpoint import load_model
from llm_jax.config import ModelConfig
from llm_jax.model import forward_hidden, init_params
from llm_jax.training import adamw, initial_state, make_train_step, next_token_loss, train

FLOAT32 = jnp.dtype("float32")
LAYERS = 4
WIDTH = int((int(os.environ.get("FROZEN_MEGABYTES", "64")) * 2**20 / (4 * LAYERS)) ** 0.5)
FROZEN_BYTES, SMALL = 4 * LAYERS * WIDTH**2, 2**20
OPTIMIZER = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=None)
TINY = ModelConfig(vocab_size=17, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=12, positions="rotary")


def scaled_layers(trainable, frozen, batch, *, dtype, dropout_key):
    """Fixed matrices, each with a learnt scale of its outputs."""
    x_BD = batch["inputs"]
    for layer in range(LAYERS):
        x_BD = jnp.tanh(x_BD @ frozen[f"{layer}.weight"]) * trainable[f"{layer}.scale"]
    return jnp.square(x_BD).sum(), batch["weights"].sum(), {}


def trees():
    weight = jnp.float32(WIDTH**-0.5)
    frozen = {f"{layer}.weight": jnp.full((WIDTH, WIDTH), weight) for layer in range(LAYERS)}
    trainable = {f"{layer}.scale": jnp.ones(WIDTH) for layer in range(LAYERS)}
    return trainable, frozen


def batch_of(micro_batches):
    return {"inputs": jnp.ones((micro_batches, 2, WIDTH)), "weights": jnp.ones((micro_batches, 2))}


def constant_bytes(hlo):
    """The sizes of all constants in a compiled program, counted as 8 bytes an element."""
    shapes = re.findall(r"\w+\[([\d,]*)\]\S* constant\(", hlo)
    return sum(8 * int(np.prod([int(size) for size in shape.split(",") if size], dtype=np.int64)) for shape in shapes)


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def test_constants_are_found_where_there_are_some():
    table = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    hlo = jax.jit(lambda x: x @ table).lower(jnp.ones((2, 256))).compile().as_text()
    assert constant_bytes(hlo) >= table.size * 8


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_large_frozen_tree_is_neither_copied_nor_compiled_in(micro_batches):
    trainable, frozen = trees()
    state, batch = initial_state(trainable, OPTIMIZER, FLOAT32), batch_of(micro_batches)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) < SMALL, "no optimiser state for frozen parameters"
    step = make_train_step(scaled_layers, OPTIMIZER, dtype=FLOAT32, seed=0)

    compiled = step.lower(state, frozen, batch, 0, 1e-3).compile()
    memory = compiled.memory_analysis()
    assert FROZEN_BYTES <= memory.argument_size_in_bytes < FROZEN_BYTES + SMALL
    assert memory.output_size_in_bytes < SMALL
    assert memory.temp_size_in_bytes < SMALL
    assert memory.generated_code_size_in_bytes < SMALL
    assert constant_bytes(compiled.as_text()) < SMALL

    pointers = {name: value.unsafe_buffer_pointer() for name, value in frozen.items()}
    before = live_bytes()
    for number in range(3):
        before_step = state
        state, _ = step(state, frozen, batch, number, 1e-3)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before_step)), "the state is donated"
    assert not any(value.is_deleted() for value in frozen.values())
    assert {name: value.unsafe_buffer_pointer() for name, value in frozen.items()} == pointers
    assert live_bytes() < before + SMALL


def test_trainable_parameters_learn_as_in_a_step_over_all():
    """Without clipping, whose global norm would count the frozen ones too."""

    def decoder_loss(trainable, frozen, batch, *, dtype, dropout_key):
        params = frozen | trainable
        hidden, _ = forward_hidden(TINY, params, batch["inputs"], dtype=dtype, dropout_key=dropout_key)
        return *next_token_loss(TINY, params, hidden, batch["targets"], batch["weights"]), {}

    tokens = np.random.default_rng(0).integers(0, 17, (2, 4, 13)).astype(np.int32)
    weights = np.ones((2, 4, 12), np.float32)
    batch = {"inputs": tokens[..., :-1], "targets": tokens[..., 1:], "weights": weights}
    step = make_train_step(decoder_loss, OPTIMIZER, dtype=FLOAT32, seed=0)

    full, _ = step(initial_state(init_params(TINY), OPTIMIZER, FLOAT32), {}, batch, 0, 1e-2)
    params = init_params(TINY)
    trainable = {name: value for name, value in params.items() if ".mlp." in name}
    frozen = {name: value for name, value in params.items() if name not in trainable}
    part, _ = step(initial_state(dict(trainable), OPTIMIZER, FLOAT32), frozen, batch, 0, 1e-2)

    assert 0 < len(trainable) < len(params)
    assert part.trainable.keys() == trainable.keys()
    for name, value in part.trainable.items():
        np.testing.assert_allclose(value, full.trainable[name], rtol=1e-5, atol=1e-6)
    assert all((params[name] == init_params(TINY)[name]).all() for name in frozen)


def test_a_run_saves_frozen_and_trainable_parameters_as_one_model_and_resumes(config):
    """Only the feed-forward layers learn."""
    constant = [
        r"training.freeze=[embed, norm, self_attn, lm_head]",
        "training.scheduler_type=step",
        "training.step_epochs=100",
        "training.warmup_epochs=0",
    ]
    through = train("lm", config(*constant, "training.epochs=2", directory="through"))
    train("lm", config(*constant, "training.epochs=1", directory="parts"))
    resume = "checkpoint.resume_from_checkpoint=auto"
    parts = train("lm", config(*constant, "training.epochs=2", resume, directory="parts"))
    weights = [(result.run.last / "model.safetensors").read_bytes() for result in (through, parts)]
    assert weights[0] == weights[1]

    model = load_model(through.run.last).model
    initial = init_params(model.config, config().training.seed)
    assert {name for name in initial if (model.params[name] != initial[name]).any()} == {
        name for name in initial if ".mlp." in name
    }
