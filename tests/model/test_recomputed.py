"""What a backward pass computes again: the same gradients, of less that is stored."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.config import ModelConfig
from llm_jax.model import forward_hidden, init_params
from llm_jax.model.remat import recomputed

SHAPE = {"vocab_size": 11, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 8, "dropout": 0.0}
TOKENS = jnp.arange(24).reshape(3, 8) % 11
ROWS = TOKENS.size


@pytest.mark.parametrize("use_glu", [False, True])
def test_activations_and_norms_are_not_stored(use_glu: bool) -> None:
    """A feed-forward block stores what its activation is of, and neither that nor its derivative."""
    config = ModelConfig(**SHAPE, intermediate_size=23, use_glu=use_glu, activation="silu", norm="rms_norm")

    def stored(params: dict) -> list:
        _, pull_back = jax.vjp(lambda params: forward_hidden(config, params, TOKENS)[0], params)
        return jax.tree.leaves(pull_back)

    arrays = jax.eval_shape(stored, init_params(config))
    assert sum(x.size == ROWS * 23 for x in arrays) == 1 + use_glu


def test_gradients_are_those_of_the_function() -> None:
    x, weight = (jax.random.normal(jax.random.key(i), (5, 5)) for i in range(2))

    def function(inputs: tuple, weight: jax.Array) -> jax.Array:
        return jnp.tanh(inputs[0] * jax.nn.silu(inputs[1])) @ weight

    def loss(call, x, weight):
        return jnp.square(call((x, 2 * x), weight)).sum()

    got = jax.grad(lambda *a: loss(partial(recomputed, function), *a), (0, 1))(x, weight)
    want = jax.grad(lambda *a: loss(function, *a), (0, 1))(x, weight)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
