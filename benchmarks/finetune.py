"""`python -m benchmarks.finetune MODEL`: a LoRA step beside peft's on torch, and beside one that trains all, in turns.

Each has a process of its own with the model loaded and everything compiled, and they take turns, step by step, on
random tokens. Both kinds of LoRA have the same targets, rank and optimiser. Memory is the largest resident set of each
process, everything included.

    make real-models
    python -m benchmarks.finetune .cache/real/smollm2-135m-instruct-q4_1.gguf
"""

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from cli._errors import Command

RANK, LR = 8, 1e-4
HERE = Path(__file__).parents[1]

# Prints a line when it is ready; for each line that it reads, runs a step and prints its seconds.
LOOP = """
import json, resource, sys, time
import numpy as np
directory, batch, tokens, dtype = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
random = np.random.default_rng(0)
def run(step, vocab):
    for _ in range(2):
        step(random.integers(0, vocab, (batch, tokens + 1)).astype(np.int32))
    print("ready", flush=True)
    for line in sys.stdin:
        ids = random.integers(0, vocab, (batch, tokens + 1)).astype(np.int32)
        start = time.perf_counter()
        loss = step(ids)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([seconds, peak, loss]), flush=True)
"""
OURS = """
import jax.numpy as jnp
from llm_jax.config import LoraConfig
from llm_jax.memory import return_freed_memory
from llm_jax.training import ModelSection, TrainConfig, TrainingConfig, initial_state, make_train_step
from llm_jax.training.footprint import compiled_beforehand, parts_of
from llm_jax.training.optimizer import make_optimizer
from llm_jax.training.tasks import SupervisedTask
from llm_jax.training.tasks.start import Start, open_start
float32, training = jnp.dtype("float32"), TrainingConfig()
lora = LoraConfig(rank={rank}, alpha=16, base_dtype="float32" if dtype == "full" else dtype)
lora = LoraConfig() if dtype == "full" else lora
config = TrainConfig(model=ModelSection(init_from=directory), lora=lora)
stored = open_start(config.model)
start = Start.build(config, stored, stored.tokenizer)
task = SupervisedTask(start=start, train=[], validation=None, floor=("", 0.0))
optimizer = make_optimizer(training, beta2=0.95, fused={{}})
frozen = task.init_frozen(0)
state = initial_state(task.init_trainable(0), optimizer, float32)
return_freed_memory()
train_step = compiled_beforehand(make_train_step(task.loss, optimizer, dtype=float32, seed=0))
parts = parts_of(batch, tokens, state.trainable, frozen)  # as llm-train divides it
weights = np.ones((parts, batch // parts, tokens), np.float32)
def step(ids):
    global state
    ids = ids.reshape(parts, batch // parts, tokens + 1)
    rows = {{"inputs": ids[..., :-1], "targets": ids[..., 1:], "weights": weights}}
    state, metrics = train_step(state, frozen, rows, 0, {lr})
    return metrics.loss.item()
run(step, start.config.vocab_size)
"""
PEFT = """
import peft, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
model = peft.get_peft_model(model, peft.LoraConfig(r={rank}, lora_alpha=16, target_modules="all-linear"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr={lr}, betas=(0.9, 0.95))
def step(ids):
    ids = torch.tensor(ids, dtype=torch.long)
    logits = model(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
run(step, model.config.vocab_size)
"""


class _Worker:
    """A process that makes a step whenever it is asked to."""

    def __init__(self, program: str, arguments: list[str]) -> None:
        command = [sys.executable, "-W", "ignore", "-c", LOOP + program.format(rank=RANK, lr=LR), *arguments]
        self._process = subprocess.Popen(
            command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.peak = 0

    def __enter__(self) -> "_Worker":
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def step(self) -> float:
        """Seconds of one step."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        seconds, self.peak, _ = json.loads(self._answer())
        return float(seconds)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("A process ended before it was ready; its message is above.")
        return line


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--batch", default=4, show_default=True, help="Rows of a step.")
@click.option("--tokens", default=256, show_default=True, help="Tokens of a row.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each.")
@click.option("--base-dtype", default="bfloat16", show_default=True, help="Of the frozen model (lora.base_dtype).")
def main(model: Path, batch: int, tokens: int, rounds: int, base_dtype: str) -> None:
    """Seconds of a step, and memory, of peft, of LoRA here, and of a step here that trains every parameter."""
    from llm_jax.checkpoint import convert, open_model

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        convert(open_model(model), directory, dtype="float32")
        numbers = [str(directory), str(batch), str(tokens)]
        programs = {"peft": (PEFT, "-"), "LoRA": (OURS, base_dtype), "full": (OURS, "full")}
        found: dict[str, Any] = {name: [] for name in programs}
        with ExitStack() as stack:
            workers = {name: _Worker(program, [*numbers, dtype]) for name, (program, dtype) in programs.items()}
            for worker in workers.values():
                stack.enter_context(worker)
            for _ in range(rounds):
                for name, worker in workers.items():
                    found[name].append(worker.step())
            peaks = {name: worker.peak for name, worker in workers.items()}
    click.echo(json.dumps(describe() | {"rows": batch, "tokens": tokens, "rank": RANK, "base": base_dtype}))
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, found["LoRA"], strict=True))
        share = peaks["LoRA"] / peaks[name]
        rate = batch * tokens / statistics.median(seconds)
        click.echo(
            f"{name:5} {statistics.median(seconds):6.2f} s  {rate:6.0f} tokens/s  {peaks[name] / 2**20:5.0f} MiB   "
            f"LoRA here: {ratio:.2f} × as fast, {share:.2f} of its memory"
        )


if __name__ == "__main__":
    main()
