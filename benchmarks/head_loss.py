"""`python -m benchmarks.head_loss`: the head and its loss over a large vocabulary, beside the plain form and float64.

Prints what the gradient takes in time and temporaries, and how far it is from float64's: the largest difference as a
share of the largest element, and the Euclidean norm of the difference as a share of that of the gradient.
"""

import time
from collections.abc import Callable
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.machine import describe
from cli._errors import Command
from llm_jax.config import ModelConfig
from llm_jax.training import next_token_loss

ROWS = 256  # of float64's logits at a time
Gradients = tuple[np.ndarray, np.ndarray]  # of the head [V, D] and of the hidden states [T, D]


def plain_loss(weight_VD: Array, hidden_BTD: Array, targets_BT: Array) -> Array:
    """The mean, with all logits at once."""
    logp_BTV = jax.nn.log_softmax(hidden_BTD @ weight_VD.T)
    return -jnp.take_along_axis(logp_BTV, targets_BT[..., None], -1).mean()


def exact_gradients(weight_VD: np.ndarray, hidden_TD: np.ndarray, targets_T: np.ndarray) -> Gradients:
    """In float64, by numpy."""
    weight_VD = weight_VD.astype(np.float64)
    of_weight_VD, of_hidden_TD = np.zeros_like(weight_VD), np.zeros(hidden_TD.shape)
    for at in range(0, len(hidden_TD), ROWS):
        rows_TD, targets = hidden_TD[at : at + ROWS].astype(np.float64), targets_T[at : at + ROWS]
        of_logits_TV = rows_TD @ weight_VD.T
        of_logits_TV -= of_logits_TV.max(1, keepdims=True)
        np.exp(of_logits_TV, out=of_logits_TV)
        of_logits_TV /= of_logits_TV.sum(1, keepdims=True)
        of_logits_TV[np.arange(len(targets)), targets] -= 1
        of_logits_TV /= len(hidden_TD)
        of_weight_VD += of_logits_TV.T @ rows_TD
        of_hidden_TD[at : at + ROWS] = of_logits_TV @ weight_VD
    return of_weight_VD, of_hidden_TD


def measured(loss: Callable[..., Array], arrays: tuple[Any, ...], rounds: int) -> tuple[Gradients, float, int]:
    """The gradients, seconds of the quickest of several calls, and bytes of temporaries."""
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays).compile()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        of_weight, of_hidden = jax.block_until_ready(compiled(*arrays))
        seconds.append(time.perf_counter() - start)
    memory: Any = compiled.memory_analysis()
    return (np.asarray(of_weight), np.asarray(of_hidden[0])), min(seconds), memory.temp_size_in_bytes


@click.command(cls=Command)
@click.option("--tokens", default=8192, show_default=True)
@click.option("--vocabulary", default=128_000, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--exact/--no-exact", default=True, show_default=True, help="Compare with float64.")
def main(tokens: int, vocabulary: int, width: int, rounds: int, exact: bool) -> None:
    """Measure the gradient of the head and its loss."""
    sizes: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": width, "max_seq_len": tokens}
    config = ModelConfig(**sizes, num_layers=1, num_heads=1, tie_embeddings=False, lm_head_bias=False)
    random = np.random.default_rng(0)
    hidden_BTD = random.normal(size=(1, tokens, width)).astype(np.float32)
    weight_VD = (random.normal(size=(vocabulary, width)) * 0.02).astype(np.float32)
    targets_BT = random.integers(0, vocabulary, (1, tokens)).astype(np.int32)

    def loss(weight_VD: Array, hidden_BTD: Array, targets_BT: Array) -> Array:
        params, weights_BT = {"lm_head.weight": weight_VD}, jnp.ones(targets_BT.shape)
        total, weight = next_token_loss(config, params, hidden_BTD, targets_BT, weights_BT)
        return total / weight

    click.echo(" · ".join(f"{name} {value}" for name, value in describe().items()))
    wanted = exact_gradients(weight_VD, hidden_BTD[0], targets_BT[0]) if exact else None
    for name, function in {"in chunks": loss, "plain": plain_loss}.items():
        gradients, seconds, temporaries = measured(function, (weight_VD, hidden_BTD, targets_BT), rounds)
        click.echo(f"{name}: {seconds:.2f} s, {temporaries / 1e9:.2f} GB of temporaries")
        for part, got, exact_one in zip(("head", "hidden states"), gradients, wanted or (), strict=False):
            error = got - exact_one
            largest = np.abs(error).max() / np.abs(exact_one).max()
            norm = np.linalg.norm(error) / np.linalg.norm(exact_one)
            click.echo(f"  gradient of the {part}: largest {largest:.1e}, norm {norm:.1e}")


if __name__ == "__main__":
    main()
