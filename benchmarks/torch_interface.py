"""Overhead of the PyTorch interface: DecoderModel and the same computation called from JAX, in the size of GPT-2 small.

Prints a table. Zero copy means that the time of the views does not depend on the size of the weights, and that a call
allocates no second copy of them. Last, a plain PyTorch training loop over a DecoderModel beside one over the same
architecture in plain torch, in turns.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import psutil
import torch
from torch import Tensor, nn

from llm import DecoderModel
from llm_jax.model import forward

IDS = torch.arange(16)[None]
VOCABULARY, WIDTH, LAYERS, HEADS, BATCH, LENGTH = 8000, 256, 4, 4, 16, 128  # of the training loops


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


class Block(nn.Module):
    """What a block of DecoderModel computes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norms[1](x))


class PlainModel(nn.Module):
    """The architecture of DecoderModel(VOCABULARY, WIDTH, LAYERS, HEADS) without JAX."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.table(ids) + self.positions[: ids.shape[1]])))


def training_step(model: nn.Module) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))

    def step() -> None:
        logits = model(tokens[:, :-1].contiguous())
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def training(rounds: int = 10) -> dict[str, str]:
    """The quickest of steps that both loops make in turns."""
    options: dict[str, Any] = {"max_seq_len": LENGTH, "pos_encoding_learned": True}
    options |= {f"{name}_dropout_p": 0.0 for name in ("embedding", "attn", "mlp")}
    ours = DecoderModel(VOCABULARY, WIDTH, LAYERS, HEADS, **options)
    steps = {"DecoderModel": training_step(ours), "plain torch": training_step(PlainModel())}
    times = {name: [seconds(step, repeats=2)] for name, step in steps.items()}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, repeats=1))
    rates = {name: BATCH * LENGTH / min(values) for name, values in times.items()}
    rows = {f"loop, {name}": f"{rate:.0f} tokens/s" for name, rate in rates.items()}
    return rows | {"ratio": f"{rates['DecoderModel'] / rates['plain torch']:.2f}"}


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
    rows = {
        "weights": f"{weights / 1e6:.0f} MB",
        "all views, first": f"{first * 1e3:.2f} ms, {views / 1e6:.1f} MB more memory",
        "all views, later": f"{later * 1e3:.2f} ms",
        "forward from JAX": f"{direct * 1e3:.2f} ms",
        "forward from torch": f"{through_torch * 1e3:.2f} ms, {calls / 1e6:.1f} MB more memory after 20 calls",
        "gradients": f"{gradients / 1e6:.0f} MB",
    } | training()
    for name, value in rows.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
