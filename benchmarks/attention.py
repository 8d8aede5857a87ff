"""Attention as training computes it, forward and with its gradient: `python -m benchmarks.attention`.

Native kernels, XLA and torch's scaled_dot_product_attention, causal; times are the best of several.
"""

import json
import os
from typing import get_args

import click
import jax
import jax.numpy as jnp
import torch
from jax import Array

from benchmarks.machine import best, describe
from cli._errors import Command
from llm_jax.kernels import AttentionSettings, Level, WeightDtype, attention, best_level

SHAPES = ("16x128x4x4x64", "4x256x12x12x64", "4x256x9x3x64", "1x1024x12x12x64", "1x2048x12x12x64")


def in_jax(level: Level, sizes: list[int], dtype: WeightDtype) -> tuple[float, float, float]:
    """Seconds forward, seconds forward and backward, and the temporaries of both in megabytes."""
    B, T, N, K, H = sizes
    qkv_BTJH = jax.random.normal(jax.random.key(0), (B, T, N + 2 * K, H)).astype(dtype)
    of_out_BTNH = jax.random.normal(jax.random.key(1), (B, T, N, H)).astype(dtype)
    position_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    settings = AttentionSettings(scale=H**-0.5)

    def forward(qkv_BTJH: Array) -> Array:
        return attention(qkv_BTJH, K, position_BT, settings, level=level)

    @jax.jit
    def both(qkv_BTJH: Array, of_out_BTNH: Array) -> tuple[Array, tuple[Array]]:
        out_BTNH, pull_back = jax.vjp(forward, qkv_BTJH)
        return out_BTNH, pull_back(of_out_BTNH)

    memory = both.lower(qkv_BTJH, of_out_BTNH).compile().memory_analysis()
    return best(jax.jit(forward), qkv_BTJH), best(both, qkv_BTJH, of_out_BTNH), memory.temp_size_in_bytes / 1e6


def in_torch(sizes: list[int], dtype: WeightDtype) -> tuple[float, float]:
    B, T, N, K, H = sizes
    qkv = torch.randn(B, T, N + 2 * K, H, dtype=getattr(torch, dtype), requires_grad=True)
    of_out = torch.randn(B, N, T, H, dtype=qkv.dtype)

    def forward() -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in qkv.split([N, K, K], dim=2))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=N != K)

    def both() -> None:
        torch.autograd.grad(forward(), qkv, of_out)

    with torch.no_grad():
        seconds = best(forward)
    return seconds, best(both)


@click.command(cls=Command)
@click.option("--shape", "shapes", multiple=True, default=SHAPES, show_default=True, help="B x T x N x K x H.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(get_args(WeightDtype)[:2]), default=["float32"])
def main(shapes: tuple[str, ...], dtypes: tuple[WeightDtype, ...]) -> None:
    """Print milliseconds forward, with the gradient, and by what XLA and torch take more."""
    if best_level() == Level.XLA:
        raise click.ClickException("There are no native kernels here; `llm-serve --version` says why.")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    click.echo(json.dumps(describe()))
    for dtype in dtypes:
        for shape in shapes:
            sizes = [int(size) for size in shape.split("x")]
            forward, both, memory = in_jax(best_level(), sizes, dtype)
            xla_forward, xla_both, xla_memory = in_jax(Level.XLA, sizes, dtype)
            torch_forward, torch_both = in_torch(sizes, dtype)
            click.echo(
                f"{shape:16} {dtype:9} forward {forward * 1e3:6.1f} ms (XLA {xla_forward / forward:.1f} ×, torch "
                f"{torch_forward / forward:.1f} ×), with gradient {both * 1e3:6.1f} ms (XLA {xla_both / both:.1f} ×, "
                f"torch {torch_both / both:.1f} ×), temporaries {memory:.0f} MB (XLA {xla_memory:.0f})"
            )


if __name__ == "__main__":
    main()
