"""Cells, and how each is measured: contenders take turns, so that a machine that drifts drifts for all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.contenders import Absent, Contender, Ours
from benchmarks.limits import decode_limit, prefill_limit
from benchmarks.machine import Memory
from benchmarks.weights import Weights
from llm_jax.kernels import Kind

Task = Literal["prefill", "decode"]
PROBE_SECONDS = 0.1


@dataclass(frozen=True)
class Cell:
    """One line of the table: `context` tokens of prompt, in each of `batch` rows."""

    dtype: Kind
    task: Task
    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.task} {self.batch} × {self.context}"


@dataclass(frozen=True)
class Row:
    """A measured cell. tokens/s of each contender that took part, and what the machine allowed at that time.

    Attributes:
        bandwidth: bytes per second, measured between the contenders' turns.
        limit: tokens/s.
    """

    cell: Cell
    rates: dict[str, float]
    limit: float
    bandwidth: float

    @property
    def share(self) -> float:
        return self.rates[Ours.name] / self.limit

    def ratio(self, peer: str) -> float | None:
        """Ours to a peer's; None where it took no part."""
        return self.rates[Ours.name] / self.rates[peer] if peer in self.rates else None

    def to_json(self) -> dict[str, Any]:
        ratios = {peer: self.ratio(peer) for peer in self.rates if peer != Ours.name}
        measured = {"tokens_per_second": self.rates, "ratios": ratios, "limit": self.limit, "share": self.share}
        return asdict(self.cell) | measured | {"bandwidth": self.bandwidth}


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns of each contender after a warm-up, `steps` decode steps in each."""

    rounds: int = 3
    steps: int = 32


def cells(dtype: Kind, batches: Iterable[int], contexts: Iterable[int], prefill: int) -> list[Cell]:
    decode = [Cell(dtype, "decode", batch, context) for context in contexts for batch in batches]
    return [Cell(dtype, "prefill", 1, prefill)] * (prefill > 0) + decode


def open_contenders(
    kinds: Sequence[type[Contender]], weights: Weights, dtype: Kind, *, max_batch: int, max_len: int
) -> tuple[list[Contender], dict[str, str]]:
    """Those that can take part, and why the others cannot or what is special about one."""
    contenders: list[Contender] = []
    notes: dict[str, str] = {}
    for kind in kinds:
        try:
            contender = kind(weights, dtype, max_batch=max_batch, max_len=max_len)
        except Absent as reason:
            notes[kind.name] = str(reason)
            continue
        contenders.append(contender)
        if contender.note:
            notes[kind.name] = contender.note
    return contenders, notes


def measure(
    contenders: Sequence[Contender],
    cell: Cell,
    weights: Weights,
    memory: Memory,
    operations: float,
    effort: Effort,
    advance: Callable[[], None] = lambda: None,
) -> Row:
    """The best of some rounds, each contender once in each.

    Args:
        operations: what the machine's fastest product does per second in the cell's dtype.
        advance: told of each turn.
    """
    rates: dict[str, float] = {}
    bandwidth = 0.0
    for number in range(1 + effort.rounds):
        for contender in contenders:
            if cell.task == "prefill":
                rate = cell.context / contender.prefill(cell.context)
            else:
                rate = contender.decode(cell.batch, cell.context, effort.steps).rate
            if number > 0:
                rates[contender.name] = max(rate, rates.get(contender.name, 0.0))
            advance()
        bandwidth = max(bandwidth, memory.bandwidth(PROBE_SECONDS))
    if cell.task == "prefill":
        limit = prefill_limit(weights.config, cell.context, operations)
    else:
        context = cell.context + effort.steps // 2
        limit = decode_limit(weights.config, cell.dtype, cell.batch, context, bandwidth)
    return Row(cell, rates, limit, bandwidth)
