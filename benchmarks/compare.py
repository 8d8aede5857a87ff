"""Cells of the comparison, and how each is measured: engines take turns, so that a drift of the machine hits all."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.engines import BenchmarkEngine, InSubprocess, LlmJax, Unavailable
from benchmarks.limits import decode_limit, prefill_limit
from benchmarks.machine import Memory
from benchmarks.weights import Weights
from llm_jax.config import ModelConfig
from llm_jax.kernels import WeightDtype

Task = Literal["prefill", "decode"]
PROBE_SECONDS = 0.1


@dataclass(frozen=True)
class Cell:
    """One line of the table: `batch` sequences with `context` tokens of prompt each."""

    dtype: WeightDtype
    task: Task
    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.task} {self.batch} × {self.context}"


@dataclass(frozen=True)
class Row:
    """A measured cell. tokens/s of each engine that ran, and the limit of the machine at that time.

    Attributes:
        unavailable: engine -> why it did not run, or not to the end.
        bandwidth: bytes per second, measured between the engines' turns.
        limit: tokens/s.
    """

    cell: Cell
    rates: dict[str, float]
    unavailable: dict[str, str]
    limit: float
    bandwidth: float

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in self.rates.items())
        reasons = map(": ".join, self.unavailable.items())
        return "; ".join([f"{self.cell}: {rates} tokens/s of {self.limit:.0f}", *reasons])

    @property
    def share(self) -> float:
        return self.rates[LlmJax.name] / self.limit

    def ratio(self, peer: str) -> float | None:
        """This project's tokens/s over a peer's; None where the peer did not run."""
        return self.rates[LlmJax.name] / self.rates[peer] if peer in self.rates else None

    def to_json(self) -> dict[str, Any]:
        ratios = {peer: self.ratio(peer) for peer in self.rates if peer != LlmJax.name}
        measured = {"tokens_per_second": self.rates, "ratios": ratios, "limit": self.limit, "share": self.share}
        return asdict(self.cell) | measured | {"absent": self.unavailable, "bandwidth": self.bandwidth}


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns of each engine after a warm-up, `steps` decode steps in each."""

    rounds: int = 3
    steps: int = 32


def cells(dtype: WeightDtype, batches: Iterable[int], contexts: Iterable[int], prefill: int) -> list[Cell]:
    decode = [Cell(dtype, "decode", batch, context) for context in contexts for batch in batches]
    return [Cell(dtype, "prefill", 1, prefill)] * (prefill > 0) + decode


def limit(config: ModelConfig, cell: Cell, steps: int, *, bandwidth: float, operations: float) -> float:
    """tokens/s at the limit of the machine, given its bytes and operations per second."""
    if cell.task == "prefill":
        return prefill_limit(config, cell.context, operations)
    return decode_limit(config, cell.dtype, cell.batch, cell.context + steps // 2, bandwidth)


def shortest_turn(config: ModelConfig, cell: Cell, steps: int, *, bandwidth: float, operations: float) -> float:
    """Seconds of one turn at the limits, including the prefill before decoding."""
    prompt = cell.context / prefill_limit(config, cell.context, operations)
    if cell.task == "prefill":
        return prompt
    return prompt + cell.batch * steps / limit(config, cell, steps, bandwidth=bandwidth, operations=operations)


def open_engines(
    peers: Iterable[type[BenchmarkEngine]], weights: Weights, dtype: WeightDtype, *, max_batch: int, max_len: int
) -> tuple[list[LlmJax | InSubprocess], dict[str, str]]:
    """This project's engine and the available peers; and notes, by name: why a peer is unavailable, or its caveat."""
    engines: list[LlmJax | InSubprocess] = [LlmJax(weights, dtype, max_batch=max_batch, max_len=max_len)]
    notes: dict[str, str] = {}
    for peer in peers:
        try:
            engine = InSubprocess(peer, weights, dtype, max_batch=max_batch, max_len=max_len)
        except Unavailable as reason:
            notes[peer.name] = str(reason)
            continue
        engines.append(engine)
        if engine.note:
            notes[peer.name] = engine.note
    return engines, notes


def measure(
    engines: Sequence[LlmJax | InSubprocess],
    cell: Cell,
    config: ModelConfig,
    memory: Memory,
    operations: float,
    effort: Effort,
    advance: Callable[[], None] = lambda: None,
) -> Row:
    """The best of some rounds, in each of which every engine takes one turn; an engine that fails has no figure.

    Args:
        operations: per second, of the machine's fastest matrix product in the cell's dtype.
        advance: called after each turn.
    """
    rates: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    bandwidth = 0.0
    for number in range(1 + effort.rounds):
        for engine in engines:
            if engine.name not in unavailable:
                try:
                    rate = _turn(engine, cell, effort.steps)
                except Unavailable as reason:
                    unavailable[engine.name] = str(reason)
                    rates.pop(engine.name, None)
                else:
                    if number > 0:
                        rates[engine.name] = max(rate, rates.get(engine.name, 0.0))
            advance()
        bandwidth = max(bandwidth, memory.bandwidth(PROBE_SECONDS))
    allowed = limit(config, cell, effort.steps, bandwidth=bandwidth, operations=operations)
    return Row(cell, rates, unavailable, allowed, bandwidth)


def _turn(engine: LlmJax | InSubprocess, cell: Cell, steps: int) -> float:
    """tokens/s."""
    if cell.task == "prefill":
        return cell.context / engine.prefill(cell.context)
    return engine.decode(cell.batch, cell.context, steps).rate
