"""Gains of prefix reuse and prompt lookup, and inter-token latency of running streams while a prompt is prefilled.

Ratios of times that are measured in alternation on one machine, so that its speed does not matter.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import click
import numpy as np

from cli._errors import Command

if TYPE_CHECKING:
    from llm_jax.inference import Engine
    from llm_jax.kernels import WeightDtype
    from llm_jax.model import Model

PREFIX, CONTEXT = 512, 1088
LONG_PROMPT, LONG_CONTEXT = 4000, 4096
STREAMS, MAX_BATCH = 4, 8
PROMPTS = 5
VOCABULARY = 50257


@click.command(cls=Command)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "int8"]), default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--only", type=click.Choice(["prefix", "lookup", "gap"]), help="One of the three.  [default: all]")
def main(dtype: "WeightDtype", as_json: bool, only: str | None) -> None:
    """Measure the gains of prefix reuse and prompt lookup, and the gaps between tokens during a long prefill."""
    from benchmarks.weights import SHAPES
    from llm_jax.model import Model

    model = Model.init(SHAPES["llama-160m"])
    measures = {"prefix": prefix_reuse, "lookup": prompt_lookup, "gap": gap_beside_a_prompt}
    report: dict[str, float] = {}
    for name, measure in measures.items():
        if only in (None, name):
            report |= measure(model, dtype)
    if as_json:
        click.echo(json.dumps({"dtype": dtype} | report))
    else:
        for name, value in report.items():
            click.echo(f"{name.replace('_', ' ')}: {value:.3g}")


@dataclass
class Stream:
    """One request, its tokens, and when each arrived (seconds)."""

    sent_at: float
    request_id: int = -1
    tokens: list[int] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    @property
    def first_token(self) -> float:
        return self.arrived[0] - self.sent_at

    def gaps(self, since: float = 0.0, until: float = math.inf) -> list[float]:
        """Seconds between consecutive tokens that arrived in that interval."""
        times = [at for at in self.arrived if since <= at <= until]
        return [later - earlier for earlier, later in pairwise(times)]


def submit(engine: "Engine", prompt: Sequence[int], new: int) -> Stream:
    """Submits a greedy request."""
    from llm_jax.inference import Request, SamplingParams, TokenEvent

    stream = Stream(time.perf_counter())

    def on_event(event: TokenEvent | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        stream.tokens.append(event.token)
        stream.arrived.append(time.perf_counter())

    request = Request(prompt_ids=tuple(prompt), sampling=SamplingParams(max_new_tokens=new, temperature=0.0))
    stream.request_id = engine.submit(request, on_event)
    return stream


def finish(engine: "Engine", prompt: Sequence[int], new: int) -> Stream:
    stream = submit(engine, prompt, new)
    while engine.step():
        pass
    return stream


def prefix_reuse(model: "Model", dtype: "WeightDtype") -> dict[str, float]:
    """Time to the first token after a cached prefix of 512 tokens, over the time when the prefix was new."""
    from llm_jax.inference import Engine

    caching = Engine(model, max_batch=2, max_len=640, dtype=dtype, prefix_tokens=8 * PREFIX, speculate=False)
    plain = Engine(model, max_batch=2, max_len=640, dtype=dtype, speculate=False)
    caching.warmup()
    plain.warmup()
    ratios, same = [], []
    for seed in range(3):
        shared = random_prompt(seed, PREFIX)
        first, second = (finish(caching, (*shared, *random_prompt(100 + i, 16)), 16) for i in range(2))
        ratios.append(second.first_token / first.first_token)
        same.append(second.tokens == finish(plain, (*shared, *random_prompt(101, 16)), 16).tokens)
    return {"prefix_first_token_ratio": statistics.median(ratios), "prefix_same_tokens": float(all(same))}


def prompt_lookup(model: "Model", dtype: "WeightDtype") -> dict[str, float]:
    """Seconds of plain decoding over those with draft tokens: 400 tokens are repeated, with one in 40 corrected."""
    from llm_jax.inference import Engine

    text, errors = random_prompt(0, 400), random_prompt(1, 400)
    draft = tuple(errors[i] if i % 40 == 39 else token for i, token in enumerate(text))
    reciter = reciting(model, text)
    runs: dict[bool, list[Stream]] = {}
    right = 0.0
    for speculate in (True, False):
        engine = Engine(reciter, max_batch=2, max_len=CONTEXT, dtype=dtype, speculate=speculate)
        engine.warmup()
        runs[speculate] = [finish(engine, (*draft, text[0]), 390) for _ in range(3)]
        if speculate:
            right = engine.stats.accepted / max(engine.stats.drafted, 1)
    seconds = {key: min(sum(stream.gaps()) for stream in streams) for key, streams in runs.items()}
    return {
        "lookup_speedup": seconds[False] / seconds[True],
        "lookup_share_of_guesses_right": right,
        "lookup_same_tokens": float(runs[True][0].tokens == runs[False][0].tokens == list(text[1:391])),
    }


def reciting(model: "Model", text: Sequence[int]) -> "Model":
    """A model of the same shape and cost that greedily continues this text from any token of it."""
    params = {name: 0 * x if "out_proj" in name or "fc2" in name else x for name, x in model.params.items()}
    table = params["embedding_layer.token_embeddings.weight"]
    before, after = np.array(text[:-1]), np.array(text[1:])
    params["lm_head.weight"] = params["lm_head.weight"].at[after].set(table[before])
    return replace(model, params=params)


def gap_beside_a_prompt(model: "Model", dtype: "WeightDtype") -> dict[str, float]:
    """The gaps between tokens of running streams while a prompt of 4,000 tokens is prefilled, over their median before.

    The largest gap without a prompt is due to the machine, which may stall during a prefill too; hence several prompts.
    """
    from llm_jax.inference import Engine

    model = replace(model, config=replace(model.config, max_seq_len=LONG_CONTEXT))
    engine = Engine(model, max_batch=MAX_BATCH, dtype=dtype, prefix_tokens=0, speculate=False)
    engine.warmup()
    streams = [submit(engine, random_prompt(i, 32), LONG_CONTEXT - 32) for i in range(STREAMS)]
    medians, alone, beside, largest, seconds = [], [], [], [], []
    for turn in range(PROMPTS):
        begin = time.perf_counter()
        target = 60 + min(len(stream.tokens) for stream in streams)
        while min(len(stream.tokens) for stream in streams) < target:
            engine.step()
        before = [gap for stream in streams for gap in stream.gaps(begin)[20:]]
        long = submit(engine, random_prompt(STREAMS + turn, LONG_PROMPT), 1)
        while not long.arrived:
            engine.step()
        median = statistics.median(before)
        during = [gap / median for stream in streams for gap in stream.gaps(long.sent_at, long.arrived[0])]
        medians.append(median)
        alone.append(max(before) / median)
        beside.append(statistics.median(during))
        largest.append(max(during))
        seconds.append(long.first_token)
    for stream in streams:
        engine.cancel(stream.request_id)
    return {
        "gap_median_ms": statistics.median(medians) * 1e3,
        "gap_alone_largest_ratio": statistics.median(alone),
        "gap_beside_a_prompt_median_ratio": statistics.median(beside),
        "gap_beside_a_prompt_largest_ratio": statistics.median(largest),
        "gap_beside_a_prompt_largest_of_all_ratio": max(largest),
        "long_prompt_first_token_seconds": statistics.median(seconds),
    }


def random_prompt(seed: int, length: int) -> tuple[int, ...]:
    """No token twice."""
    return tuple(np.random.default_rng(seed).permutation(VOCABULARY)[:length].tolist())


if __name__ == "__main__":
    main()
