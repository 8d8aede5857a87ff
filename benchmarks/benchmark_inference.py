"""Speed of continuing one prompt: latency, time to first token, tokens per second, share of memory bandwidth.

Decoding one sequence reads every weight once per token and does little else, so that the machine's memory bandwidth
sets its limit (weights / bandwidth = seconds per token). The bandwidth is measured first, with the same library.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cli._errors import Command

if TYPE_CHECKING:
    from llm_jax.inference import Engine, Request
    from llm_jax.kernels import WeightDtype
    from llm_jax.model import Model
    from llm_jax.parallel import DeviceName

# The shape of the usage guide's larger example; its weights are random, since the speed does not depend on them.
DEFAULT_SHAPE: dict[str, Any] = dict(vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12, max_seq_len=1024)


@dataclass(frozen=True)
class Generation:
    """One continuation. Times in seconds; `tokens` counts generated tokens only."""

    latency: float
    first_token: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.latency

    @property
    def seconds_per_step(self) -> float:
        """Of the decode steps, after the first token, which the prefill yields."""
        return (self.latency - self.first_token) / max(self.tokens - 1, 1)


@click.command(cls=Command)
@click.option("--prompt", default="Hello, world", show_default=True)
@click.option("--max-new-tokens", "--max_new_tokens", default=50, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Measured runs, after one warm-up."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--compile/--no-compile", "compiled", default=True, help="--no-compile runs operation by operation. Slow."
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "int8"]), default="float32", show_default=True)
@click.option(
    "--model", "--model-path", help="Any model that the other commands take. [default: random weights, 12 x 768]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(
    prompt: str,
    max_new_tokens: int,
    runs: int,
    device: "DeviceName",
    compiled: bool,
    dtype: "WeightDtype",
    model: str | None,
    as_json: bool,
) -> None:
    """Measure how fast one prompt is continued greedily."""
    import jax

    from benchmarks.limits import bytes_per_step
    from benchmarks.machine import Memory
    from llm_jax.inference import Engine
    from llm_jax.parallel import use_device

    use_device(device)
    say = partial(click.echo, err=as_json)
    bandwidth = Memory().bandwidth()
    measured_model, prompt_ids, description = _model_and_prompt(model, prompt)
    say(f"{description}, {dtype}, on {jax.devices()[0].device_kind}; memory reads at {bandwidth / 1e9:.1f} GB/s")

    with jax.disable_jit(not compiled):
        engine = Engine(measured_model, max_batch=1, dtype=dtype)
        request = _request(prompt_ids, max_new_tokens, engine)
        measure(engine, request)
        measured = []
        for number in range(1, runs + 1):
            run = measure(engine, request)
            measured.append(run)
            say(
                f"run {number}: {run.tokens} tokens in {run.latency:.3f} s, "
                f"first after {run.first_token * 1e3:.1f} ms, {run.tokens_per_second:.1f} tokens/s"
            )
    report = summarise(measured, bytes_per_step(measured_model.config, dtype), bandwidth)
    if as_json:
        setting = {"model": description, "dtype": dtype, "prompt_tokens": len(prompt_ids), "compiled": compiled}
        click.echo(json.dumps(setting | report | {"runs": [asdict(run) for run in measured]}))
        return
    rate = report["tokens_per_second"]
    click.echo(f"Time to first token: {report['first_token']['mean'] * 1e3:.1f} ms")
    click.echo(f"Tokens per second: mean {rate['mean']:.1f}, p50 {rate['p50']:.1f}, p95 {rate['p95']:.1f}")
    click.echo(
        f"Share of memory bandwidth: {report['bandwidth_share']:.0%} ({report['bytes_per_step'] / 1e6:.1f} MB a step)"
    )
    click.echo(f"Average latency: {report['latency']['mean']:.3f} s")
    click.echo(f"Average tokens per second: {rate['mean']:.1f}")


def measure(engine: "Engine", request: "Request") -> Generation:
    """Continue the prompt once, and measure the time of the first token and of the last."""
    from llm_jax.inference import TokenEvent

    arrivals: list[float] = []

    def on_event(event: TokenEvent | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        arrivals.append(time.perf_counter())

    start = time.perf_counter()
    engine.submit(request, on_event)
    while engine.step():
        pass
    return Generation(latency=arrivals[-1] - start, first_token=arrivals[0] - start, tokens=len(arrivals))


def summarise(runs: list[Generation], weights: int, bandwidth: float) -> dict[str, Any]:
    """Mean, median and 95th percentile (by rank) of each figure, and the share of the bandwidth that decoding uses."""

    def spread(values: list[float]) -> dict[str, float]:
        ordered = sorted(values)
        rank = min(round(0.95 * len(ordered) + 0.5), len(ordered)) - 1
        return {"mean": statistics.fmean(values), "p50": statistics.median(values), "p95": ordered[rank]}

    step = statistics.fmean(run.seconds_per_step for run in runs)
    return {
        "latency": spread([run.latency for run in runs]),
        "first_token": spread([run.first_token for run in runs]),
        "tokens_per_second": spread([run.tokens_per_second for run in runs]),
        "bytes_per_step": weights,
        "bandwidth": bandwidth,
        "bandwidth_share": weights / step / bandwidth if step else 0.0,
    }


def _model_and_prompt(name_or_path: str | None, prompt: str) -> tuple["Model", list[int], str]:
    """The model, the prompt as ids (bytes, where there is no tokenizer), and a description for the report."""
    from llm_jax.config import ModelConfig
    from llm_jax.hub import from_pretrained
    from llm_jax.model import Model

    tokenizer = None
    if name_or_path is None:
        model, name = Model.init(ModelConfig(**DEFAULT_SHAPE)), "random weights in the documented shape"
    else:
        loaded = from_pretrained(name_or_path)
        model, tokenizer, name = loaded.model, loaded.tokenizer, name_or_path
    ids = tokenizer.encode(prompt) if tokenizer else [byte % model.config.vocab_size for byte in prompt.encode()]
    config = model.config
    parameters = sum(value.size for value in model.params.values())
    return (
        model,
        ids,
        f"{name}: {config.num_layers} layers of {config.hidden_size}, {parameters / 1e6:.1f} M parameters",
    )


def _request(prompt_ids: list[int], max_new_tokens: int, engine: "Engine") -> "Request":
    """No end-of-text: every run generates the same number of tokens."""
    from llm_jax.errors import RequestError
    from llm_jax.inference import Request, SamplingParams

    if not prompt_ids:
        raise RequestError("The prompt is empty; give at least one character.", param="prompt")
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0)
    request = Request(prompt_ids=tuple(prompt_ids), sampling=sampling)
    engine.validate(request)
    return request


if __name__ == "__main__":
    main()
