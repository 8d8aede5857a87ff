"""What choosing a token costs: the rate of each setting over the greedy one, in one engine, in alternation."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cli._errors import Command

if TYPE_CHECKING:
    from llm_jax.inference import Engine, Grammars, Request
    from llm_jax.kernels import WeightDtype

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "top-p 0.95": {"top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
    "top-k 50": {"top_k": 50},
    "top-k 50, top-p 0.9": {"top_k": 50, "top_p": 0.9},
}
ROUNDS, STEPS, PROMPT = 12, 48, 32
SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "is_new": {"type": "boolean"}},
                "required": ["name", "age", "is_new"],
            },
            "minItems": 100,
        }
    },
    "required": ["items"],
}


@click.command(cls=Command)
@click.option(
    "--model", type=Path, help="A checkpoint, for its distributions.  [default: random weights, which are flat]"
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "int8"]), default="int8", show_default=True)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 16), show_default=True)
@click.option("--constrained", is_flag=True, help="Also all rows under a JSON schema (needs --model).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(model: Path | None, dtype: "WeightDtype", batches: Sequence[int], constrained: bool, as_json: bool) -> None:
    """Measure the rate of every sampling setting over greedy decoding's."""
    from benchmarks.weights import SHAPES
    from llm_jax.hub import load_with_tokenizer
    from llm_jax.inference import Engine, Grammars
    from llm_jax.model import Model

    grammars = None
    if model is None:
        if constrained:
            raise click.UsageError("--constrained needs --model: a schema is about text.")
        loaded = Model.init(SHAPES["llama-160m"])
    else:
        stored, tokenizer = load_with_tokenizer(model)
        loaded = stored.model
        if constrained:
            ends = [i for i in (tokenizer.eos_token_id,) if i is not None]
            grammars = Grammars(tokenizer, vocab_size=loaded.config.vocab_size, end_ids=ends)
            mask_times(grammars, loaded.config.vocab_size)
    report: dict[str, dict[str, float]] = {}
    for batch in batches:
        engine = Engine(loaded, max_batch=batch, max_len=256, dtype=dtype, prefix_tokens=0, speculate=False)
        runs = {name: request_maker(loaded.config.vocab_size, settings) for name, settings in SETTINGS.items()}
        if grammars is not None:
            runs["JSON schema"] = request_maker(loaded.config.vocab_size, SETTINGS["temperature 0.8"], grammars)
        rates = measure(engine, runs, batch)
        report[str(batch)] = rates
        if not as_json:
            for name, rate in rates.items():
                click.echo(f"batch {batch}, {name}: {rate:.0f} tokens/s, {rate / rates['greedy']:.1%} of greedy")
    if as_json:
        click.echo(json.dumps({"dtype": dtype, "rates": report}))


def request_maker(
    vocab_size: int, settings: dict[str, Any], grammars: "Grammars | None" = None
) -> "Callable[[int], Request]":
    """A function from the row to its request, under SCHEMA where there are grammars."""
    from llm_jax.inference import Request, SamplingParams

    def make(row: int) -> Request:
        prompt = np.random.default_rng(row).integers(0, vocab_size, PROMPT)
        sampling = SamplingParams(max_new_tokens=STEPS + 1, seed=row, **settings)
        constraint = None if grammars is None else grammars.json_schema(SCHEMA)
        return Request(prompt_ids=tuple(prompt.tolist()), sampling=sampling, constraint=constraint)

    return make


def measure(engine: "Engine", runs: "dict[str, Callable[[int], Request]]", batch: int) -> dict[str, float]:
    """The best rate of each setting in decoding `batch` rows, over rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + ROUNDS):  # the first compiles
        for name, make in runs.items():
            rows = [_Row() for _ in range(batch)]
            for index, row in enumerate(rows):
                engine.submit(make(index), row.hear)
            while engine.step():
                pass
            begin = max(row.arrived[0] for row in rows)
            seconds[name].append((max(row.arrived[-1] for row in rows) - begin) / (len(rows[0].arrived) - 1))
    return {name: batch / min(times[1:]) for name, times in seconds.items()}


@dataclass
class _Row:
    """When the tokens of one request arrived."""

    def __post_init__(self) -> None:
        self.arrived: list[float] = []

    def hear(self, event: object) -> None:
        if isinstance(event, Exception):
            raise event
        self.arrived.append(time.perf_counter())


def mask_times(grammars: "Grammars", vocab_size: int) -> None:
    """Prints how long a mask takes under the schema, for text that is drawn alike from what is allowed."""
    constraint, rng = grammars.json_schema(SCHEMA), np.random.default_rng(0)
    generated: list[int] = []
    seconds = []
    for _ in range(300):
        begin = time.perf_counter()
        mask = constraint.mask(generated)
        seconds.append(time.perf_counter() - begin)
        generated.append(int(rng.choice(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")))))
    median, largest = np.median(seconds) * 1e6, max(seconds) * 1e6
    click.echo(f"a mask of {vocab_size} tokens takes {median:.0f} µs (median), {largest:.0f} µs (longest of 300)")


if __name__ == "__main__":
    main()
