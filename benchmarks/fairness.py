"""What a greedy API key costs the others: a client's time to its first token, alone and beside a flood of another key.

python -m benchmarks.fairness MODEL [--greedy 64] [-- FLAG …]
"""

import asyncio
import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.load import Load, Measured, over_http
from benchmarks.serving import Served
from server import key_entry, new_key


async def beside(url: str, modest: Load, key: str, greedy: Load, greedy_key: str) -> list[Measured]:
    """The requests of the modest load, while the greedy one goes on."""
    flood = asyncio.create_task(over_http(url, greedy, greedy_key))
    try:
        return await over_http(url, modest, key)
    finally:
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)


def summary(name: str, requests: list[Measured]) -> str:
    first = np.percentile([request.first_token for request in requests], [50, 99]) * 1e3
    return f"{name:28} first token {first[0]:7.1f} ms, p99 {first[1]:7.1f} ms"


@click.command(help=__doc__)
@click.argument("model")
@click.argument("flags", nargs=-1)
@click.option("--greedy", default=64, show_default=True, help="Streams that the greedy key has at a time.")
@click.option("--requests", default=30, show_default=True, help="Requests of the modest client, one after the other.")
@click.option("--prompt", default=64, show_default=True, help="Tokens of its prompts; the greedy ones have 64.")
@click.option("--vocab", default=49152, show_default=True, help="Ids to draw prompts from.")
def main(model: str, flags: tuple[str, ...], greedy: int, requests: int, prompt: int, vocab: int) -> None:
    keys = new_key(), new_key()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "keys.toml"
        path.write_text("\n".join(map(key_entry, ("modest", "greedy"), keys)), encoding="utf-8")
        keyed = ("--api-key-file", str(path), "--open-metrics", "--max-queue", str(4 * greedy))
        server = Served(model, Path().resolve(), (*flags, *keyed))
        try:
            server.wait_for_programs()
            modest = Load(1, requests, 16, vocab, prompt)
            flood = Load(greedy, 1000, 64, vocab)
            asyncio.run(over_http(server.url, Load(1, 3, 16, vocab, prompt), keys[0]))
            click.echo(summary("alone", asyncio.run(over_http(server.url, modest, keys[0]))))
            click.echo(
                summary(
                    f"beside {greedy} greedy streams",
                    asyncio.run(beside(server.url, modest, keys[0], flood, keys[1])),
                )
            )
        finally:
            server.close()


if __name__ == "__main__":
    main()
