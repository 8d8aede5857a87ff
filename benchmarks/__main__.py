"""`python -m benchmarks`: this engine beside transformers and llama.cpp, on the same weights, in one run."""

import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the peers read local files only
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import click

from benchmarks.compare import Cell, Effort, cells, measure, open_engines, shortest_turn
from benchmarks.engines import PEERS, BenchmarkEngine, InSubprocess, LlmJax, cache_capacity
from benchmarks.machine import Memory, describe, matmul_rate
from benchmarks.plot import plot
from benchmarks.report import ProfileRow, Report, print_table, put_section
from benchmarks.step_profile import profile
from benchmarks.weights import SHAPES, Weights, random_weights
from cli._errors import Command
from llm_jax.kernels import Level, WeightDtype

HERE = Path(__file__).parent
BATCHES, CONTEXTS, PREFILL = (1, 4, 8, 16), (32, 1024), 512
QUICK_BATCHES, QUICK_CONTEXTS = (1, 16), (32,)
LEVELS = [level.name.lower() for level in Level]
SECTION = "comparison"
OPENING, SLOWNESS = 25.0, 4.0  # estimates: seconds to open the engines of a dtype; a turn over one at the limits


@click.command(cls=Command)
@click.option("--quick", is_flag=True, help="Batch 1 and 16 at the short context, prefill; two rounds.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), help="Of these only; may be repeated.")
@click.option("--context", "contexts", multiple=True, type=click.IntRange(min=2), help="Likewise: tokens of prompt.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(get_args(WeightDtype)), help="Likewise: weight dtypes."
)
@click.option("--peers", multiple=True, type=click.Choice([*PEERS, "none"]), help="Likewise: peers to measure.")
@click.option("--prefill", type=click.IntRange(min=0), help=f"Tokens of the prompt that is timed, 0: none. [{PREFILL}]")
@click.option("--kernels", type=click.Choice(LEVELS), help="This engine's instruction level.  [default: the best here]")
@click.option("--model-shape", type=click.Choice(list(SHAPES)), default="llama-160m", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), help="Turns of each engine; the best counts. [3]")
@click.option("--steps", type=click.IntRange(min=1), default=32, show_default=True, help="Decode steps of a turn.")
@click.option("--profile/--no-profile", "profiled", default=True, help="Also trace where a step's time goes.")
@click.option("--json", "json_path", type=Path, help="Where the figures go; the plot lies beside. [benchmarks/results]")
@click.option("--results", type=Path, help="Where the tables go, between markers. [benchmarks/RESULTS.md]")
def main(
    quick: bool,
    batches: tuple[int, ...],
    contexts: tuple[int, ...],
    dtypes: tuple[WeightDtype, ...],
    peers: tuple[str, ...],
    prefill: int | None,
    kernels: str | None,
    model_shape: str,
    rounds: int | None,
    steps: int,
    profiled: bool,
    json_path: Path | None,
    results: Path | None,
) -> None:
    """Measure prefill and decode of this engine and its peers on the same random weights.

    A full run replaces the committed figures. One that an option narrows prints its own, and writes nothing unless
    --json or --results say where. Files are written after each weight dtype.
    """
    is_full = not (
        quick or batches or contexts or dtypes or peers or kernels or prefill is not None or model_shape != "llama-160m"
    )
    if kernels is not None:
        os.environ["LLM_JAX_KERNELS"] = kernels
    if is_full:
        json_path = json_path or HERE / "results" / f"{model_shape}.json"
        results = results or HERE / "RESULTS.md"
    batches = batches or (QUICK_BATCHES if quick else BATCHES)
    contexts = contexts or (QUICK_CONTEXTS if quick else CONTEXTS)
    dtypes = dtypes or get_args(WeightDtype)
    prefill = PREFILL if prefill is None else prefill
    others = [peer for name, peer in PEERS.items() if not peers or name in peers]
    effort = Effort(rounds or (2 if quick else 3), steps)

    plan = {dtype: cells(dtype, batches, contexts, prefill) for dtype in dtypes}
    memory = Memory()
    report = Report(
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        shape=model_shape,
        machine=describe(),
        effort=effort,
        bandwidth=memory.bandwidth(),
        operations={dtype: matmul_rate(dtype) for dtype in dtypes},
    )
    turns = (1 + effort.rounds) * (1 + len(others))
    seconds = len(plan) * OPENING + turns * sum(expected(report, cell) for cell in chain(*plan.values()))
    with Bar(seconds) as bar, random_weights(model_shape) as weights:
        for row in plan.values():
            run(report, row, others, weights, memory, profiled, bar)
            write(report, json_path, results, min(contexts))

    print_table(report.rates(), f"{model_shape}, tokens/s")
    if report.profile:
        print_table(report.parts(), "where the time goes")
    for line in report.remarks():
        click.echo(f"- {line}")


def expected(report: Report, cell: Cell) -> float:
    """Seconds of one turn, about."""
    limits = {"bandwidth": report.bandwidth, "operations": report.operations[cell.dtype]}
    return SLOWNESS * shortest_turn(SHAPES[report.shape], cell, report.effort.steps, **limits)


def run(
    report: Report,
    plan: Sequence[Cell],
    peers: Sequence[type[BenchmarkEngine]],
    weights: Weights,
    memory: Memory,
    profiled: bool,
    bar: "Bar",
) -> None:
    """Measures the cells of one dtype, and adds them to the report."""
    dtype, effort = plan[0].dtype, report.effort
    bar.describe(f"{dtype}: opening")
    max_batch = max(*BATCHES, *(cell.batch for cell in plan))  # one engine for every batch, as in a server
    longest = max(cell.context for cell in plan)
    max_len = min(cache_capacity(longest, effort.steps, max_batch), weights.config.max_seq_len)
    engines, notes = open_engines(peers, weights, dtype, max_batch=max_batch, max_len=max_len)
    report.notes.update({f"{name}, {dtype}": note for name, note in notes.items()})
    bar.advance(OPENING)
    for cell in plan:
        bar.describe(str(cell))
        advance = partial(bar.advance, expected(report, cell))
        row = measure(engines, cell, weights.config, memory, report.operations[dtype], effort, advance)
        report.rows.append(row)
        bar.print(str(row))
        for _ in range((1 + len(peers) - len(engines)) * (1 + effort.rounds)):
            advance()
        if profiled and cell.context == min(other.context for other in plan if other.task == cell.task):
            report.profile.append(profile_of(engines[0], cell, effort.steps))
    for engine in engines:
        engine.close()


def write(report: Report, json_path: Path | None, results: Path | None, context: int) -> None:
    """Writes the requested files with the figures so far; the plot shows one context."""
    picture = None
    if json_path is not None:
        report.write_json(json_path)
        picture = json_path.with_suffix(".png")
        plot(picture, report.rows, context)
    if results is not None:
        put_section(results, SECTION, report.markdown(picture and os.path.relpath(picture, results.parent)))


def profile_of(engine: LlmJax | InSubprocess, cell: Cell, steps: int) -> ProfileRow:
    """One traced turn."""
    if cell.task == "prefill":
        return ProfileRow(cell.dtype, f"prefill of {cell.context}", profile(lambda: engine.prefill(cell.context)))
    seconds = profile(lambda: engine.decode(cell.batch, cell.context, steps))
    per_step = {part: value / steps for part, value in seconds.items()}
    return ProfileRow(cell.dtype, f"decode, batch {cell.batch}", per_step)


class Bar:
    """A progress bar on stderr: the current task, elapsed and remaining time. Messages stay above it.

    Args:
        seconds: expected duration of the whole run.
    """

    def __init__(self, seconds: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True, soft_wrap=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=seconds)
        self.print(f"This takes about {max(seconds / 60, 1):.0f} min.")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def describe(self, task: str) -> None:
        self._progress.update(self._task, description=task)

    def print(self, message: str) -> None:
        self._progress.console.print(message, highlight=False)

    def advance(self, seconds: float) -> None:
        self._progress.advance(self._task, seconds)


if __name__ == "__main__":
    main()
