"""`python -m benchmarks.before CHECKOUT`: this build beside an earlier one, in turns.

The figures of a shared machine drift by more than most changes gain or lose, so that two runs one after the other say
little. Here each checkout has a process of its own with the engine ready, and they take turns; the pairs are compared.
Where a process happens to get its memory is worth several percent for as long as it lives: hence more than one start.

    git worktree add ../before COMMIT
    (cd ../before && python -m llm_jax.native.build)
    python -m benchmarks.before ../before --dtype int8
"""

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from cli._errors import Command
from llm_jax.errors import ConfigError

HERE = Path(__file__).parents[1]
# Imports what stands in the checkout that it is started in; answers one line of JSON for each that it reads.
WORKER = """
import json, sys
from benchmarks.engines import LlmJax
from benchmarks.weights import random_weights
from llm_jax.kernels import best_level

shape, dtype, max_batch, max_len = sys.argv[1:]
with random_weights(shape) as weights:
    engine = LlmJax(weights, dtype, max_batch=int(max_batch), max_len=int(max_len))
    print(json.dumps(best_level().name), flush=True)
    for line in sys.stdin:
        task, *numbers = json.loads(line)
        rate = numbers[0] / engine.prefill(*numbers) if task == "prefill" else engine.decode(*numbers).rate
        print(json.dumps(rate), flush=True)
"""


@click.command(cls=Command)
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["float32", "bfloat16", "int8"]), default=["int8"])
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=[1, 4, 16], show_default=True)
@click.option("--context", default=32, show_default=True, help="Tokens of each prompt before the timed steps.")
@click.option("--prefill", default=512, show_default=True, help="Tokens of the prompt that is timed, 0: none.")
@click.option("--starts", type=click.IntRange(min=1), default=3, show_default=True, help="Processes of each checkout.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of each process.")
@click.option("--steps", default=32, show_default=True, help="Decode steps of a turn.")
@click.option("--model-shape", default="llama-160m", show_default=True)
def main(
    checkout: Path,
    dtypes: tuple[str, ...],
    batches: tuple[int, ...],
    context: int,
    prefill: int,
    starts: int,
    rounds: int,
    steps: int,
    model_shape: str,
) -> None:
    """Compare this build with the one in CHECKOUT: tokens/s of both, their ratio, and the median ratio of the pairs."""
    cells: list[tuple[Any, ...]] = [("prefill", prefill)] * (prefill > 0)
    cells += [("decode", batch, context, steps) for batch in batches]
    max_len = max(prefill + 1, context + 4 * steps + 64)  # while one prompt is computed in chunks, the others decode on
    for dtype in dtypes:
        arguments = [model_shape, dtype, str(max(batches)), str(max_len)]
        pairs: dict[tuple[Any, ...], list[tuple[float, float]]] = {cell: [] for cell in cells}
        for _ in range(starts):
            with ExitStack() as stack:
                before, now = (stack.enter_context(_Worker(path, arguments)) for path in (checkout, HERE))
                if before.level != now.level:
                    raise ConfigError(
                        f"{checkout} runs {before.level} kernels and this build {now.level}; "
                        "run `python -m llm_jax.native.build` where they are missing."
                    )
                for cell in cells:
                    pairs[cell] += _turns(before, now, cell, rounds)
        for cell in cells:
            click.echo(f"{dtype} {_name(cell)}: {_compare(pairs[cell])}")


def _turns(before: "_Worker", now: "_Worker", cell: tuple[Any, ...], rounds: int) -> list[tuple[float, float]]:
    """Pairs of tokens/s, each checkout first in every other one."""
    before.rate(cell), now.rate(cell)  # compiles
    pairs = []
    for number in range(rounds):
        order = (before, now) if number % 2 else (now, before)
        rates = {worker: worker.rate(cell) for worker in order}
        pairs.append((rates[before], rates[now]))
    return pairs


def _compare(pairs: list[tuple[float, float]]) -> str:
    best = [max(rates) for rates in zip(*pairs, strict=True)]
    median = statistics.median(new / old for old, new in pairs)
    ratio = f"{best[1] / best[0]:.2f} x, median of {len(pairs)} pairs {median:.2f} x"
    return f"{best[0]:,.0f} -> {best[1]:,.0f} tokens/s, {ratio}"


def _name(cell: tuple[Any, ...]) -> str:
    return f"prefill {cell[1]}" if cell[0] == "prefill" else f"decode {cell[1]} x {cell[2]}"


class _Worker:
    """The engine of one checkout in a process of its own.

    Attributes:
        level: which kernels it runs.
    """

    def __init__(self, checkout: Path, arguments: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        command = [sys.executable, "-c", WORKER, *arguments]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.level: str = self._answer(checkout)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes the pipes, at which it ends

    def rate(self, cell: tuple[Any, ...]) -> float:
        """Tokens per second of one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(cell) + "\n")
        self._process.stdin.flush()
        return self._answer("a turn")

    def _answer(self, what: object) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise ConfigError(f"{what}: the engine's process ended with {self._process.returncode}; see its error.")
        return json.loads(line)


if __name__ == "__main__":
    main()
