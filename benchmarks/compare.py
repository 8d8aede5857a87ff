"""Cells, and how each is measured: contenders take turns, so that a machine that drifts drifts for all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.engines import Absent, Apart, Contender, Ours
from benchmarks.limits import decode_limit, prefill_limit
from benchmarks.machine import Memory
from benchmarks.weights import Weights
from llm_jax.config import ModelConfig
from llm_jax.kernels import WeightDtype

Task = Literal["prefill", "decode"]
PROBE_SECONDS = 0.1


@dataclass(frozen=True)
class Cell:
    """One line of the table: `context` tokens of prompt, in each of `batch` rows."""

    dtype: WeightDtype
    task: Task
    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.task} {self.batch} × {self.context}"


@dataclass(frozen=True)
class Row:
    """A measured cell. tokens/s of each contender that took part, and what the machine allowed at that time.

    Attributes:
        absent: why a contender took no part, or not to the end.
        bandwidth: bytes per second, measured between the contenders' turns.
        limit: tokens/s.
    """

    cell: Cell
    rates: dict[str, float]
    absent: dict[str, str]
    limit: float
    bandwidth: float

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in self.rates.items())
        return "; ".join([f"{self.cell}: {rates} tokens/s of {self.limit:.0f}", *map(": ".join, self.absent.items())])

    @property
    def share(self) -> float:
        return self.rates[Ours.name] / self.limit

    def ratio(self, peer: str) -> float | None:
        """Ours to a peer's; None where it took no part."""
        return self.rates[Ours.name] / self.rates[peer] if peer in self.rates else None

    def to_json(self) -> dict[str, Any]:
        ratios = {peer: self.ratio(peer) for peer in self.rates if peer != Ours.name}
        measured = {"tokens_per_second": self.rates, "ratios": ratios, "limit": self.limit, "share": self.share}
        return asdict(self.cell) | measured | {"absent": self.absent, "bandwidth": self.bandwidth}


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns of each contender after a warm-up, `steps` decode steps in each."""

    rounds: int = 3
    steps: int = 32


def cells(dtype: WeightDtype, batches: Iterable[int], contexts: Iterable[int], prefill: int) -> list[Cell]:
    decode = [Cell(dtype, "decode", batch, context) for context in contexts for batch in batches]
    return [Cell(dtype, "prefill", 1, prefill)] * (prefill > 0) + decode


def limit(config: ModelConfig, cell: Cell, steps: int, *, bandwidth: float, operations: float) -> float:
    """tokens/s that the machine allows, where it reads so many bytes and does so many operations a second."""
    if cell.task == "prefill":
        return prefill_limit(config, cell.context, operations)
    return decode_limit(config, cell.dtype, cell.batch, cell.context + steps // 2, bandwidth)


def shortest_turn(config: ModelConfig, cell: Cell, steps: int, *, bandwidth: float, operations: float) -> float:
    """Seconds of one turn at the limits, with the prompt that has to be read before decoding."""
    prompt = cell.context / prefill_limit(config, cell.context, operations)
    if cell.task == "prefill":
        return prompt
    return prompt + cell.batch * steps / limit(config, cell, steps, bandwidth=bandwidth, operations=operations)


def open_contenders(
    peers: Iterable[type[Contender]], weights: Weights, dtype: WeightDtype, *, max_batch: int, max_len: int
) -> tuple[list[Ours | Apart], dict[str, str]]:
    """Ours and those peers that can take part, and why the others cannot or what is special about one."""
    contenders: list[Ours | Apart] = [Ours(weights, dtype, max_batch=max_batch, max_len=max_len)]
    notes: dict[str, str] = {}
    for peer in peers:
        try:
            contender = Apart(peer, weights, dtype, max_batch=max_batch, max_len=max_len)
        except Absent as reason:
            notes[peer.name] = str(reason)
            continue
        contenders.append(contender)
        if contender.note:
            notes[peer.name] = contender.note
    return contenders, notes


def measure(
    contenders: Sequence[Ours | Apart],
    cell: Cell,
    config: ModelConfig,
    memory: Memory,
    operations: float,
    effort: Effort,
    advance: Callable[[], None] = lambda: None,
) -> Row:
    """The best of some rounds, each contender once in each; one that breaks off has no figure.

    Args:
        operations: what the machine's fastest product does per second in the cell's dtype.
        advance: told of each turn.
    """
    rates: dict[str, float] = {}
    absent: dict[str, str] = {}
    bandwidth = 0.0
    for number in range(1 + effort.rounds):
        for contender in contenders:
            if contender.name not in absent:
                try:
                    rate = _turn(contender, cell, effort.steps)
                except Absent as reason:
                    absent[contender.name] = str(reason)
                    rates.pop(contender.name, None)
                else:
                    if number > 0:
                        rates[contender.name] = max(rate, rates.get(contender.name, 0.0))
            advance()
        bandwidth = max(bandwidth, memory.bandwidth(PROBE_SECONDS))
    allowed = limit(config, cell, effort.steps, bandwidth=bandwidth, operations=operations)
    return Row(cell, rates, absent, allowed, bandwidth)


def _turn(contender: Ours | Apart, cell: Cell, steps: int) -> float:
    """tokens/s."""
    if cell.task == "prefill":
        return cell.context / contender.prefill(cell.context)
    return contender.decode(cell.batch, cell.context, steps).rate
