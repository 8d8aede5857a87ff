"""What LoRA adapters cost a server: clients over several of them and their model, and the same load without any.

    python -m benchmarks.adapters MODEL [--clients 16] [--rank 8] [--targets q_proj,v_proj] [-- FLAG …]

The adapters are random: their values change no figure.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import click
import jax
import numpy as np
import uvloop

from benchmarks.load import WARMUP, Figures, Load, Measured, over_http, processor_seconds, summary
from benchmarks.serving import Served
from llm_jax.checkpoint import new_adapter, write_adapter
from llm_jax.config import LoraConfig
from llm_jax.hub import find, load_with_tokenizer
from llm_jax.model import init_lora


def write_adapters(
    model: str, folder: Path, count: int, rank: int, targets: str, *, size: float = 0.01
) -> dict[str, Path]:
    """Random adapters of a model, by name; `size`: the standard deviation of their second factors."""
    config = load_with_tokenizer(model)[0].model.config
    lora = LoraConfig(rank=rank, targets=targets if targets == "all-linear" else tuple(targets.split(",")))
    adapter = new_adapter(lora, config, find(model))
    paths = {f"adapter-{n}": folder / str(n) for n in range(count)}
    for n, path in enumerate(paths.values()):
        params = init_lora(adapter, {}, seed=n)
        noise = np.random.default_rng(n)
        params |= {m.b: jax.numpy.asarray(noise.normal(0, size, params[m.b].shape), "float32") for m in adapter.modules}
        write_adapter(path, adapter, params, lora, config)
    return paths


def measure(name: str, server: Served, load: Load) -> float:
    """Tokens per second. It prints what the processor spent on them too, which others on the machine disturb less."""
    uvloop.run(over_http(server.url, replace(load, requests=WARMUP)))
    before, _ = processor_seconds(server.process.pid)
    requests: list[Measured] = uvloop.run(over_http(server.url, load))
    spent = processor_seconds(server.process.pid)[0] - before
    per_token = spent / sum(request.tokens for request in requests)
    figures = Figures.of(requests)
    click.echo(f"{summary(name, load.clients, figures)}, {1e3 * per_token:.2f} ms of processor time per token")
    return figures.rate


@click.command(help=__doc__)
@click.argument("model")
@click.argument("flags", nargs=-1)
@click.option("--clients", default=16, show_default=True)
@click.option("--requests", default=4, show_default=True, help="Requests of each client.")
@click.option("--new-tokens", default=64, show_default=True, help="Tokens of an answer, on average.")
@click.option("--adapters", default=3, show_default=True, help="How many.")
@click.option("--rank", default=8, show_default=True)
@click.option("--targets", default="q_proj,v_proj", show_default=True, help="Linear maps, or all-linear.")
@click.option("--rounds", default=2, show_default=True, help="Rounds, each of all three in turn.")
def main(
    model: str,
    flags: tuple[str, ...],
    clients: int,
    requests: int,
    new_tokens: int,
    adapters: int,
    rank: int,
    targets: str,
    rounds: int,
) -> None:
    vocab = load_with_tokenizer(model)[0].model.config.vocab_size
    with tempfile.TemporaryDirectory() as folder:
        paths = write_adapters(model, Path(folder), adapters, rank, targets)
        given = [flag for name, path in paths.items() for flag in ("--adapter", f"{name}={path}")]
        alone = Served(model, Path.cwd(), flags)
        beside = Served(model, Path.cwd(), (*flags, *given))
        try:
            for server in (alone, beside):
                server.wait_for_programs()
            load = Load(clients, requests, new_tokens, vocab)
            mixed = replace(load, models=("llm", *paths))
            kinds = {"without any": (alone, load), "not used": (beside, load), "mixed": (beside, mixed)}
            rates = [[measure(name, *kind) for name, kind in kinds.items()] for _ in range(rounds)]
        finally:
            alone.close()
            beside.close()
    without, unused, with_them = np.mean(rates, axis=0)
    click.echo(
        f"mixed: {100 * with_them / without:.1f} % of the rate without any; not used: {100 * unused / without:.1f} %"
    )


if __name__ == "__main__":
    main()
