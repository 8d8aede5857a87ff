"""The report of a run: JSON, tables, and a section of RESULTS.md between markers, which the next run replaces."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare import Effort, Row
from benchmarks.engines import PEERS, LlmJax
from benchmarks.step_profile import PARTS
from llm_jax.atomic import atomic_file

Table = list[list[str]]


@dataclass(frozen=True)
class ProfileRow:
    """Seconds of each part of one decode step, or of one prompt, in the traced run."""

    dtype: str
    what: str
    seconds: dict[str, float]


@dataclass
class Report:
    """The figures of a run, which are printed, plotted and written.

    Attributes:
        operations: dtype -> operations per second of the machine's fastest matrix product.
        notes: "engine, dtype" -> why it is unavailable, or a caveat about its figures.
    """

    command: str
    shape: str
    machine: dict[str, str]
    effort: Effort
    bandwidth: float
    operations: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    profile: list[ProfileRow] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "shape": self.shape,
            "machine": self.machine,
            "rounds": self.effort.rounds,
            "steps": self.effort.steps,
            "bandwidth": self.bandwidth,
            "operations_per_second": self.operations,
            "notes": self.notes,
            "cells": [row.to_json() for row in self.rows],
            "profile": [{"dtype": row.dtype, "what": row.what, "seconds": row.seconds} for row in self.profile],
        }

    def write_json(self, path: Path) -> None:
        with atomic_file(path) as new:
            new.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    def rates(self) -> Table:
        """A header, then a line for each cell. tokens/s, ratios to the peers, share of the limit."""
        peers = list(PEERS)
        header = ["weights", "task", "context", "batch", LlmJax.name, *peers, *(f"× {peer}" for peer in peers)]
        table = [[*header, "limit", "share of limit"]]
        for row in self.rows:
            cell = row.cell
            line = [cell.dtype, cell.task, str(cell.context), str(cell.batch)]
            line += [_rate(row.rates.get(name)) for name in (LlmJax.name, *peers)]
            line += ["–" if (ratio := row.ratio(peer)) is None else f"{ratio:.2f}" for peer in peers]
            table.append([*line, _rate(row.limit), f"{row.share:.0%}"])
        return table

    def parts(self) -> Table:
        """A header, then a line for each profiled step: milliseconds, and the share of each part."""
        table = [["weights", "what", "ms", *PARTS]]
        for row in self.profile:
            total = sum(row.seconds.values())
            shares = [f"{row.seconds[part] / total:.0%}" for part in PARTS]
            table.append([row.dtype, row.what, f"{total * 1e3:.1f}", *shares])
        return table

    def remarks(self) -> list[str]:
        """Notes on how to read the tables."""
        rates = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in self.operations.items())
        return [
            f"Memory reads at {self.bandwidth / 1e9:.1f} GB/s; products reach, in GFLOP/s: {rates}.",
            f"tokens/s, the best of {self.effort.rounds} turns that the engines take in alternation; decode is "
            f"summed over the batch, over {self.effort.steps} greedy steps, each engine's choice of tokens included.",
            "The limit of decode reads weights and cache once a step, at the bandwidth measured between the turns; "
            "that of prefill does its products at the rate above.",
            *(f"{engine}: {reason}." for engine, reason in self.notes.items()),
            *(f"{engine}, {row.cell}: {reason}." for row in self.rows for engine, reason in row.unavailable.items()),
        ]

    def markdown(self, plot: str | None) -> str:
        machine = " · ".join(f"{key} {value}" if key != "date" else value for key, value in self.machine.items())
        parts = [f"`{self.command}` · {machine}", f"Shape {self.shape}, random weights."]
        parts += ["\n".join(f"- {line}" for line in self.remarks()), _markdown(self.rates())]
        if plot:
            parts.append(f"![tokens/s over the batch]({plot})")
        if self.profile:
            parts += ["### Where the time goes", PROFILE_REMARK, _markdown(self.parts())]
        return "\n\n".join(parts)


PROFILE_REMARK = (
    "One step (decode) or one whole prompt (prefill) of this project's engine, by XLA's trace of the operations that "
    "ran and the line of code each comes from. Tracing itself costs a few percent. `products` include the norms and "
    "sums that are fused into them; `rest` is embedding, rotary positions and moves of the cache; in `host` nothing "
    "ran."
)


def put_section(path: Path, name: str, text: str) -> None:
    """Replaces the text between a section's markers, or appends the section to a file without them."""
    before = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    section = f"<!-- {name} -->\n{text}\n<!-- end of {name} -->"
    pattern = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- end of {re.escape(name)} -->", re.S)
    after, found = pattern.subn(lambda _: section, before)
    with atomic_file(path) as new:
        new.write_text(after if found else f"{before.rstrip()}\n\n{section}\n", encoding="utf-8")


def add_line(path: Path, name: str, line: dict[str, str]) -> None:
    """Appends a line to the table of a section; the first line creates the section."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)\n<!-- end of {re.escape(name)} -->", text, re.S)
    table = _markdown([list(line), list(line.values())])
    if found:
        table = f"{found[1]}\n{table.splitlines()[-1]}"
    put_section(path, name, table)


def print_table(table: Table, title: str) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    header, *lines = table
    shown = RichTable(title=title)
    for i, name in enumerate(header):
        shown.add_column(name, justify="left" if i < 2 else "right")
    for line in lines:
        shown.add_row(*line)
    Console(width=None if Console().is_terminal else 140).print(shown)


def _markdown(table: Sequence[Sequence[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    header, *lines = table
    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, lines)])


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.0f}"
