"""Overhead of the PyTorch interface: DecoderModel and the same computation called from JAX, in the size of GPT-2 small.

Prints a table. Zero copy means that the time of the views does not depend on the size of the weights, and that a call
allocates no second copy of them.
"""

import time
from collections.abc import Callable

import jax
import psutil
import torch

from llm import DecoderModel
from llm_jax.model import forward

IDS = torch.arange(16)[None]


def seconds(call: Callable[[], object], repeats: int = 20) -> float:
    """The quickest of several calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def memory() -> int:
    return psutil.Process().memory_info().rss


def main() -> None:
    model = DecoderModel(50257, 768, 12, 12, max_seq_len=1024).eval()
    weights = sum(parameter.nbytes for parameter in model.parameters())

    before = memory()
    first = seconds(model.as_jax, repeats=1)
    later = seconds(model.as_jax)
    views = memory() - before

    run = jax.jit(forward, static_argnames="config")
    in_jax, ids = model.as_jax(), IDS.numpy()
    direct = seconds(lambda: run(in_jax.config, in_jax.params, ids).block_until_ready())
    with torch.no_grad():
        model(IDS)
        before = memory()
        through_torch = seconds(lambda: model(IDS))
        calls = memory() - before

    logits = model(IDS)
    logits.sum().backward()
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    for name, value in {
        "weights": f"{weights / 1e6:.0f} MB",
        "all views, first": f"{first * 1e3:.2f} ms, {views / 1e6:.1f} MB more memory",
        "all views, later": f"{later * 1e3:.2f} ms",
        "forward from JAX": f"{direct * 1e3:.2f} ms",
        "forward from torch": f"{through_torch * 1e3:.2f} ms, {calls / 1e6:.1f} MB more memory after 20 calls",
        "gradients": f"{gradients / 1e6:.0f} MB",
    }.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
