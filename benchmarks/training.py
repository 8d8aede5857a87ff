"""`python -m benchmarks.training`: training steps beside PyTorch on this machine, in turns, each in its own process.

Prints tokens/s, their ratios, the share of the peak of matrix products (MFU), the most memory of each in its turns, and
where a step of this project goes; with --sweep it also plots tokens/s over batch, length and depth.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.limits import training_operations
from benchmarks.machine import describe, matmul_rate
from benchmarks.training_workers import Cell
from cli._errors import Command
from llm_jax.atomic import atomic_file
from llm_jax.kernels import WeightDtype

HERE = Path(__file__).parents[1]
PLOT = Path(__file__).parent / "results" / "training.png"
DTYPES = ("float32", "bfloat16")
ENGINES = ("llm", "torch", "torch compiled")
CELLS = ((4, 256), (1, 1024))
SWEEPS = {"batch": (1, 2, 4, 8), "length": (128, 256, 512, 1024), "layers": (2, 4, 8, 12)}


@dataclass
class Worker:
    """An engine that is ready to take its turn."""

    process: subprocess.Popen[str]
    losses: list[float]
    seconds: float = float("inf")  # of the quickest step
    memory: int = 0

    def turn(self, steps: int) -> None:
        answer = self.ask(str(steps))
        self.seconds, self.memory = min(self.seconds, *answer["seconds"]), max(self.memory, answer["memory"])

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextmanager
def worker(engine: str, cell: Cell) -> Iterator[Worker]:
    """A process that has made its first steps."""
    command = [sys.executable, "-m", "benchmarks.training_workers", engine, json.dumps(asdict(cell))]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise click.ClickException(f"{engine} stopped before its first step; see above.")
        yield Worker(process, **json.loads(line))
        process.stdin.close()


def measure(cell: Cell, engines: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Tokens/s, MFU and memory of each engine, and the peak of the products between their turns."""
    peak = 0.0
    with ExitStack() as stack:
        workers = {engine: stack.enter_context(worker(engine, cell)) for engine in engines}
        for _ in range(rounds):
            for ready in workers.values():
                ready.turn(steps)
            peak = max(peak, matmul_rate(cell.dtype, rows=cell.batch * cell.length))
        parts = workers["llm"].ask("profile")
        tokens, operations = cell.batch * cell.length, training_operations(cell.config, cell.length)
        figures = {
            engine: {
                "rate": tokens / ready.seconds,
                "mfu": tokens / ready.seconds * operations / peak,
                "memory": ready.memory,
            }
            for engine, ready in workers.items()
        }
    return {"cell": asdict(cell), "peak": peak, "engines": figures, "parts": parts}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, one line a cell and engine; GFLOP/s are what products reach between the turns, and the ratios this
    project's figures over the engine's."""
    lines = [
        "| shape | dtype | batch × length | GFLOP/s | engine | tokens/s | MFU | peak memory | speed × | memory × |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cell, ours = Cell(**row["cell"]), row["engines"]["llm"]
        for name, figures in row["engines"].items():
            ratios = "– | –"
            if name != "llm":
                ratios = f"{ours['rate'] / figures['rate']:.2f} | {ours['memory'] / figures['memory']:.2f}"
            lines.append(
                f"| {cell.shape} | {cell.dtype} | {cell.batch} × {cell.length} | {row['peak'] / 1e9:.0f} | {name} "
                f"| {figures['rate']:.0f} | {figures['mfu']:.0%} | {figures['memory'] / 1e9:.2f} GB | {ratios} |"
            )
    return "\n".join(lines)


def parts_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: where a step of this project's goes, by XLA's trace."""
    names = list(rows[0]["parts"])
    lines = [f"| shape | dtype | batch × length | ms | {' | '.join(names)} |", "|---" * (len(names) + 4) + "|"]
    for row in rows:
        cell, total = Cell(**row["cell"]), sum(row["parts"].values())
        shares = " | ".join(f"{row['parts'][name] / total:.0%}" for name in names)
        lines.append(f"| {cell.shape} | {cell.dtype} | {cell.batch} × {cell.length} | {total * 1e3:.0f} | {shares} |")
    return "\n".join(lines)


def plot(path: Path, panels: dict[str, list[dict[str, Any]]]) -> None:
    """Tokens/s of each engine over what each panel varies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False)
    for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
        values = [row["cell"][name] for row in rows]
        for engine in rows[0]["engines"]:
            axis.plot(values, [row["engines"][engine]["rate"] for row in rows], marker="o", label=engine)
        axis.set(xlabel=name, xscale="log", xticks=values, xticklabels=values, ylim=(0, None))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("tokens/s")
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as new:
        figure.savefig(new, dpi=120)
    pyplot.close(figure)


@click.command(cls=Command)
@click.option("--model-shape", "shapes", multiple=True, default=["gpt2-small", "llama-160m"], show_default=True)
@click.option(
    "--cell", "cells", multiple=True, type=(int, int), default=CELLS, help="Batch and length. [4 256, 1 1024]"
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), default=DTYPES, show_default=True)
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), default=ENGINES, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each engine.")
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Steps of a turn.")
@click.option("--layers", type=click.IntRange(min=1), help="Instead of the shape's own.")
@click.option("--sweep", is_flag=True, help="Also plot over batch, length and depth, around the first cell, 4 layers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a cell.")
def main(
    shapes: tuple[str, ...],
    cells: tuple[tuple[int, int], ...],
    dtypes: tuple[WeightDtype, ...],
    engines: tuple[str, ...],
    rounds: int,
    steps: int,
    layers: int | None,
    sweep: bool,
    as_json: bool,
) -> None:
    """Compare training steps with PyTorch's, in turns."""
    engines = tuple(dict.fromkeys(("llm", *engines)))
    rows = []
    for shape, dtype, (batch, length) in product(shapes, dtypes, cells):
        rows.append(measure(Cell(shape, batch, length, dtype, layers), engines, rounds, steps))
        if as_json:
            click.echo(json.dumps(rows[-1]))
        else:  # at once: all of them take long
            click.echo("\n".join(table(rows[-1:]).splitlines()[2:]), err=True)
    if not as_json:
        click.echo(" · ".join(f"{name} {value}" for name, value in describe().items()))
        click.echo(f"\n{table(rows)}\n\n{parts_table(rows)}")
    if sweep:
        start = Cell(shapes[0], *cells[0], dtype=dtypes[0], layers=layers or 4)
        panels = {
            name: [measure(replace(start, **{name: value}), engines, rounds, steps) for value in values]
            for name, values in SWEEPS.items()
        }
        plot(PLOT, panels)
        click.echo(f"\n{PLOT}")


if __name__ == "__main__":
    main()
