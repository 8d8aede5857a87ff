"""Gradient checkpointing keeps one hidden state a layer, also where XLA would undo it."""

import jax
import jax.numpy as jnp
import pytest

from llm_jax.config import ModelConfig
from llm_jax.model import forward, param_shapes

TOKENS = jax.ShapeDtypeStruct((4, 128), jnp.int32)


def temporaries(layers, *, checkpointing):
    """Bytes, beside parameters and their gradients, of a loss and its gradient."""
    config = ModelConfig(
        vocab_size=32, hidden_size=64, num_layers=layers, num_heads=2, max_seq_len=128, dropout=0.0,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip

    def loss(params, tokens):
        return jnp.square(forward(config, params, tokens)).sum()

    compiled = jax.jit(jax.grad(loss)).lower(param_shapes(config), TOKENS).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_twelve_layers_take_hardly_more_memory_than_two():
    two = temporaries(2, checkpointing=True)
    assert temporaries(12, checkpointing=True) < 1.3 * two < temporaries(4, checkpointing=False)


@pytest.mark.parametrize("trained", ["mlp.fc2", "norm1"])
def test_what_is_frozen_takes_no_product_of_a_gradient(trained):
    config = ModelConfig(vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, gradient_checkpointing=True)
    shapes = param_shapes(config)
    chosen = {name: x for name, x in shapes.items() if trained in name}
    frozen = {name: x for name, x in shapes.items() if name not in chosen}

    def products(*parts):
        def loss(trained, frozen, tokens):
            return jnp.square(forward(config, frozen | trained, tokens)).sum()

        return jax.jit(jax.grad(loss)).lower(*parts, TOKENS).as_text().count("stablehlo.dot_general")

    assert products(chosen, frozen) <= products(shapes, {}) - 6, "at least those of three matrices of each block"
