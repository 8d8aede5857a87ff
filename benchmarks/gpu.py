"""`python -m benchmarks.gpu`: decoding and training of a model of about a billion parameters on one device.

Meant for a GPU; runs anywhere, which is how it is tested. Adds a line to RESULTS.md for each run.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.engines import LlmJax, cache_capacity
from benchmarks.limits import decode_limit, training_operations
from benchmarks.machine import Memory, describe, matmul_rate
from benchmarks.report import add_line
from benchmarks.weights import SHAPES, Weights, random_weights
from cli._errors import Command
from llm_jax.config import ModelConfig
from llm_jax.data import Batch
from llm_jax.model import Params, forward_hidden, init_params
from llm_jax.training import LossSums, adamw, initial_state, make_train_step, next_token_loss

RESULTS = Path(__file__).parent / "RESULTS.md"
SECTION = "gpu"
# By NVIDIA's data sheets, the first name that a device's own contains: bytes/s, dense bfloat16 operations/s.
PEAKS = {
    "H200": (4.8e12, 989e12),
    "H100 NVL": (3.9e12, 835e12),
    "H100 PCIe": (2.0e12, 756e12),
    "H100": (3.35e12, 989e12),
    "A100-SXM4-80GB": (2.039e12, 312e12),
    "A100": (1.555e12, 312e12),
    "L40S": (0.864e12, 362e12),
}


@click.command(cls=Command)
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="llama-1b", show_default=True)
@click.option("--batch", type=click.IntRange(min=2), default=64, show_default=True, help="Decoded beside batch 1.")
@click.option("--context", type=click.IntRange(min=2), default=128, show_default=True, help="Tokens of each prompt.")
@click.option("--steps", type=click.IntRange(min=1), default=128, show_default=True, help="Decode steps of a run.")
@click.option(
    "--train-batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Sequences of a training step; halved until it fits the memory.",
)
@click.option("--train-length", type=click.IntRange(min=2), default=1024, show_default=True)
@click.option("--checkpointing/--no-checkpointing", default=False, help="Compute activations anew going back.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="The best of these counts.")
@click.option("--peak-bandwidth", type=float, help="TB/s. [by the device's name, else measured]")
@click.option("--peak-flops", type=float, help="TFLOP/s in bfloat16, dense. [by the device's name, else measured]")
@click.option("--results", type=Path, default=RESULTS, show_default=True, help="Where the line goes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    model_shape: str,
    batch: int,
    context: int,
    steps: int,
    train_batch: int,
    train_length: int,
    checkpointing: bool,
    rounds: int,
    peak_bandwidth: float | None,
    peak_flops: float | None,
    results: Path,
    as_json: bool,
) -> None:
    """Measure decode as a share of memory bandwidth, batching, and training as a share of the peak (MFU)."""
    known = next((peaks for name, peaks in PEAKS.items() if name in jax.devices()[0].device_kind), None)
    known_bandwidth, known_flops = known or (None, None)
    bandwidth = peak_bandwidth * 1e12 if peak_bandwidth else known_bandwidth or Memory().bandwidth()
    flops = peak_flops * 1e12 if peak_flops else known_flops or matmul_rate("bfloat16")

    with random_weights(model_shape) as weights:
        decode = {n: decode_rate(weights, n, context, steps, rounds) for n in (1, batch)}
    config = replace(SHAPES[model_shape], gradient_checkpointing=checkpointing)
    trained, rate = training_rate(config, train_batch, train_length, rounds)
    limit = decode_limit(config, "bfloat16", 1, context + steps // 2, bandwidth)
    figures = {
        "machine": describe(),
        "shape": model_shape,
        "peak_bandwidth": bandwidth,
        "peak_flops": flops,
        "decode": {str(n): tokens for n, tokens in decode.items()},
        "bandwidth_share": decode[1] / limit,
        "batch_gain": decode[batch] / decode[1],
        "training_batch": trained,
        "training": rate,
        "mfu": rate * training_operations(config, train_length) / flops,
    }
    line = _line(figures, batch, train_length)
    add_line(results, SECTION, line)
    click.echo(json.dumps(figures) if as_json else "\n".join(f"{name:22} {value}" for name, value in line.items()))


def decode_rate(weights: Weights, batch: int, context: int, steps: int, rounds: int) -> float:
    """tokens/s summed over the batch: bfloat16, the whole engine."""
    engine = LlmJax(weights, "bfloat16", max_batch=batch, max_len=cache_capacity(context, steps, batch))
    engine.decode(batch, context, steps)
    best = max(engine.decode(batch, context, steps).rate for _ in range(rounds))
    engine.close()
    return best


def training_rate(config: ModelConfig, batch: int, length: int, rounds: int) -> tuple[int, float]:
    """The batch that fits the memory, and tokens/s of AdamW steps in bfloat16 over float32 weights."""
    while True:
        try:
            return batch, _training_rate(config, batch, length, rounds)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or batch == 1:
                raise
            batch //= 2


def _training_rate(config: ModelConfig, batch: int, length: int, rounds: int) -> float:
    def loss(
        trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        params = frozen | trainable
        hidden, _ = forward_hidden(config, params, batch["inputs"], dtype=dtype, dropout_key=dropout_key)
        return *next_token_loss(config, params, hidden, batch["targets"], batch["weights"]), {}

    dtype = jnp.dtype(jnp.bfloat16)
    optimizer = adamw(beta1=0.9, beta2=0.95, weight_decay=0.1, clip=1.0)
    step = make_train_step(loss, optimizer, dtype=dtype, seed=0)
    state = initial_state(init_params(config), optimizer, dtype)
    tokens = jax.random.randint(jax.random.key(0), (1, batch, length + 1), 0, config.vocab_size)
    examples = {
        "inputs": tokens[..., :-1],
        "targets": tokens[..., 1:],
        "weights": jnp.ones((1, batch, length), jnp.float32),
    }
    best = float("inf")
    for number in range(1 + rounds):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, {}, examples, number, 1e-4))
        if number > 0:
            best = min(best, time.perf_counter() - start)
    if not jnp.isfinite(metrics.loss):
        raise RuntimeError(f"the loss is {metrics.loss}; these figures would mean nothing")
    return batch * length / best


def _line(figures: dict[str, Any], batch: int, length: int) -> dict[str, str]:
    machine, decode = figures["machine"], figures["decode"]
    return {
        "date": machine["date"],
        "device": machine["device"],
        "versions": f"Python {machine['python']}, jax {machine['jax']}",
        "shape": figures["shape"],
        "decode, batch 1": f"{decode['1']:.0f} tokens/s",
        "share of bandwidth": f"{figures['bandwidth_share']:.0%} of {figures['peak_bandwidth'] / 1e12:.2f} TB/s",
        "decode, large batch": f"{decode[str(batch)]:.0f} tokens/s at {batch}",
        "× batch 1": f"{figures['batch_gain']:.1f}",
        "training": f"{figures['training']:.0f} tokens/s, {figures['training_batch']} × {length}",
        "MFU": f"{figures['mfu']:.0%} of {figures['peak_flops'] / 1e12:.0f} TFLOP/s",
    }


if __name__ == "__main__":
    main()
