"""`llm-serve` under mixed load: time to ready, resident memory, tokens per second, and a shared beginning.

    python -m benchmarks.serving MODEL [--checkout DIRECTORY] [-- FLAG …]

With --checkout an earlier build serves, for a comparison in turns; flags behind `--` are handed to `llm-serve`.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import httpx
import numpy as np
import psutil

MIXED = 1000  # requests, 64 at a time, after which memory is read
AT_ONCE = 64
NEW_TOKENS = 32
SHARED = 4000  # tokens of a common beginning


class Served:
    """A server of its own, on a free port.

    Attributes:
        ready_after: seconds from its start.
    """

    def __init__(self, model: str, checkout: Path, flags: tuple[str, ...]) -> None:
        started = time.perf_counter()
        patience = ["--queue-timeout", "3600", "--first-token-timeout", "3600", "--request-timeout", "3600"]
        command = [sys.executable, "-m", "cli.serve", "--model", model, "--port", "0", "--log-format", "json"]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        self.process = subprocess.Popen(
            [*command, *patience, *flags], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.url = ""
        for line in self.process.stdout:
            event = json.loads(line)
            self.url = event.get("url", self.url)
            if event["event"] == "ready":
                break
        self.ready_after = time.perf_counter() - started
        # A pipe that nobody reads would hold the server up after some hundred lines of its log.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    @property
    def resident(self) -> float:
        """Gigabytes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e9

    def wait_for_programs(self) -> None:
        """Waits until nothing is compiled any more beside requests; an earlier build does not tell."""
        while re.search(r"^llm_programs_missing\S* [1-9]", self._metrics(), re.MULTILINE):
            time.sleep(0.2)

    def _metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics").raise_for_status().text

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def mixed_prompts(number: int, vocab_size: int, seed: int) -> list[list[int]]:
    """Prompts of 16 to 4,000 tokens, as many short as long ones on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(np.log(16), np.log(4000), number)).astype(int)
    return [rng.integers(0, vocab_size, length).tolist() for length in lengths]


async def complete(client: httpx.AsyncClient, prompt: list[int], new: int) -> float:
    """Seconds of one completion."""
    started = time.perf_counter()
    body = {"model": "llm", "prompt": prompt, "max_tokens": new, "temperature": 0}
    response = await client.post("/v1/completions", json=body)
    response.raise_for_status()
    return time.perf_counter() - started


async def run_all(client: httpx.AsyncClient, prompts: list[list[int]]) -> float:
    """Seconds until all are done, AT_ONCE at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: list[int]) -> None:
        async with gate:
            await complete(client, prompt, NEW_TOKENS)

    started = time.perf_counter()
    await asyncio.gather(*map(one, prompts))
    return time.perf_counter() - started


async def measure(server: Served, vocab_size: int, mixed: int) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as client:
        print(f"ready after {server.ready_after:.2f} s, {server.resident:.2f} GB resident")
        prompts = mixed_prompts(AT_ONCE, vocab_size, seed=0)
        await run_all(client, prompts[:2])
        seconds = await run_all(client, prompts)
        tokens = sum(map(len, prompts)) + NEW_TOKENS * len(prompts)
        print(f"{AT_ONCE} mixed requests at once: {tokens / seconds:.0f} tokens/s, prompts counted")
        shared = np.random.default_rng(1).integers(0, vocab_size, SHARED).tolist()
        first = await complete(client, [*shared, 1], 1)
        second = await complete(client, [*shared, 2], 1)
        print(f"{SHARED} tokens: {first:.2f} s; again: {second:.3f} s, {100 * second / first:.1f} %")
        if mixed:
            await run_all(client, mixed_prompts(mixed, vocab_size, seed=2))
            print(f"after {mixed} mixed requests: {server.resident:.2f} GB resident")


@click.command(help=__doc__)
@click.argument("model")
@click.argument("flags", nargs=-1)
@click.option("--checkout", type=click.Path(exists=True, path_type=Path), default=Path(), help="Build that serves.")
@click.option("--mixed", default=MIXED, show_default=True, help="Requests before memory is read again.")
@click.option("--vocab", default=49152, show_default=True, help="Ids to draw prompts from.")
def main(model: str, flags: tuple[str, ...], checkout: Path, mixed: int, vocab: int) -> None:
    server = Served(model, checkout.resolve(), flags)
    try:
        asyncio.run(measure(server, vocab, mixed))
    finally:
        server.close()


if __name__ == "__main__":
    main()
