"""Training steps of one engine in a process of its own: it takes its turn when a line comes, and answers with figures.

Memory is the largest resident set of a turn: that of the steps, not of compiling them.

A line is a number of steps, or `profile`, which our engine answers with the seconds of each part of a step.

Both do the same: the loss of next tokens, its gradient clipped to a norm of 1, AdamW; no dropout.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.weights import SHAPES
from llm_jax.config import ModelConfig
from llm_jax.kernels import WeightDtype
from llm_jax.memory import return_freed_memory

LEARNING_RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True)
class Cell:
    """What is trained: a shape, sequences and tokens of each, and layers where they are not the shape's own."""

    shape: str
    batch: int
    length: int
    dtype: WeightDtype = "float32"
    layers: int | None = None

    @property
    def config(self) -> ModelConfig:
        config = replace(SHAPES[self.shape], max_seq_len=self.length)
        return config if self.layers is None else replace(config, num_layers=self.layers)


def jax_step(cell: Cell) -> Callable[[], float]:
    """Runs a step and gives its loss."""
    import jax
    import jax.numpy as jnp
    from jax import Array

    from llm_jax.data import Batch
    from llm_jax.model import Params, forward_hidden, init_params
    from llm_jax.training import (
        LossSums,
        adamw,
        compiled_beforehand,
        initial_state,
        make_train_step,
        next_token_loss,
    )

    config, dtype = cell.config, jnp.dtype(cell.dtype)

    def loss(
        trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        hidden, _ = forward_hidden(config, trainable, batch["inputs"], dtype=dtype)
        return *next_token_loss(config, trainable, hidden, batch["targets"], batch["weights"]), {}

    optimizer = adamw(beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY, clip=CLIP)
    train_step = compiled_beforehand(make_train_step(loss, optimizer, dtype=dtype, seed=0))
    state = [initial_state(init_params(config), optimizer, dtype)]
    tokens = jax.random.randint(jax.random.key(0), (1, cell.batch, cell.length + 1), 0, config.vocab_size)
    batch = {"inputs": tokens[..., :-1], "targets": tokens[..., 1:], "weights": jnp.ones((1, cell.batch, cell.length))}

    def step() -> float:
        state[0], metrics = train_step(state[0], {}, batch, 0, LEARNING_RATE)
        return metrics.loss.item()

    return step


def torch_step(cell: Cell, *, compiled: bool) -> Callable[[], float]:
    """The same by transformers' model of that architecture."""
    import os

    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    ours = cell.config
    sizes = {"vocab_size": ours.vocab_size, "hidden_size": ours.hidden_size, "num_hidden_layers": ours.num_layers}
    sizes |= {"num_attention_heads": ours.num_heads, "max_position_embeddings": ours.max_seq_len}
    config: Any
    if ours.positions == "learned":
        config = GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    else:
        config = LlamaConfig(**sizes, num_key_value_heads=ours.kv_heads, intermediate_size=ours.dense_ffn_size)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY, fused=True)
    tokens = torch.randint(0, cell.config.vocab_size, (cell.batch, cell.length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    forward: Any = torch.compile(model) if compiled else model

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=cell.dtype == "bfloat16"):
            logits = forward(inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


def _parts(step: Callable[[], float]) -> dict[str, float]:
    from jax.profiler import TraceAnnotation

    from benchmarks.engines.llm_jax import TIMED
    from benchmarks.step_profile import TRAINING_PARTS, profile

    def timed() -> None:
        with TraceAnnotation(TIMED):
            step()

    return profile(timed, TRAINING_PARTS)


def _forget_peak() -> None:
    """The largest resident set is that of now; where the system has no such thing, it stays that of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Bytes of the largest resident set."""
    try:
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except (OSError, ValueError):
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes) * 1024


def main() -> None:
    """Arguments: the engine, and a cell as JSON."""
    engine, cell = sys.argv[1], Cell(**json.loads(sys.argv[2]))
    step = jax_step(cell) if engine == "llm" else torch_step(cell, compiled=engine == "torch compiled")
    losses = [step(), step()]  # the first compiles
    return_freed_memory()
    print(json.dumps({"losses": losses}), flush=True)
    for line in sys.stdin:
        if line.strip() == "profile":
            print(json.dumps(_parts(step)), flush=True)
            continue
        seconds = []
        _forget_peak()
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "memory": _peak()}), flush=True)


if __name__ == "__main__":
    main()
