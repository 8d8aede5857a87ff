"""Adapters come and go under load: by an operator's requests, and by SIGHUP with a directory; no request may be lost.

    python scripts/check_adapters.py [--rounds 10]

A server of the demo model with three adapters, two of them from the directory. Clients ask each of the four without a
pause, half of them for streams, while one adapter is unloaded and loaded again, and another leaves the directory and
comes back. Each answer must be that of its model or adapter alone, greedy and whole; a 404 is right for a name that was
not there, and for no other.
"""

import asyncio
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.adapters import write_adapters  # noqa: E402 (found by the path above)
from llm_jax import demo  # noqa: E402 (found by the path above)
from tests.server.live import Server, running  # noqa: E402 (found by the path above)

ADMIN = {"X-API-Key": "operator"}
BY_ROUTE, BY_DIRECTORY, STAYS = "adapter-0", "adapter-1", "adapter-2"
NAMES = ("llm", BY_ROUTE, BY_DIRECTORY, STAYS)
PROMPTS = ("Once upon a time", "The little dog", "One day, a girl")
TOKENS = 40
CLIENTS = 16


async def ask(http: httpx.AsyncClient, name: str, prompt: str, *, stream: bool) -> tuple[int, str]:
    """Status and text; a stream that breaks off raises."""
    body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
    response = await http.post("/v1/completions", json=body | {"ignore_eos": True})
    if response.status_code != 200:
        return response.status_code, response.json()["error"]["code"]
    if not stream:
        return 200, response.json()["choices"][0]["text"]
    *frames, done = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    if done != "[DONE]":
        raise ConnectionError(f"a stream ends with {done[:80]}")
    return 200, "".join(json.loads(frame)["choices"][0]["text"] for frame in frames)


class Load:
    """Clients that ask again and again. `outcomes` counts what came of it, `problems` what must not have come."""

    def __init__(self, http: httpx.AsyncClient, alone: dict[tuple[str, str], str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.is_over = False
        self._http, self._alone = http, alone

    async def client(self, number: int) -> None:
        name = NAMES[number % len(NAMES)]
        while not self.is_over:
            prompt = PROMPTS[self.outcomes.total() % len(PROMPTS)]
            try:
                status, text = await ask(self._http, name, prompt, stream=number % 2 == 0)
            except (httpx.HTTPError, ConnectionError) as error:
                self.problems[f"{name}: {error!r}"] += 1
                continue
            if status == 200 and text == self._alone[name, prompt]:
                self.outcomes["whole, and as alone"] += 1
            elif status == 404 and name in (BY_ROUTE, BY_DIRECTORY):
                self.outcomes["404 while the adapter was away"] += 1
                await asyncio.sleep(0.01)
            else:
                self.problems[f"{name}: {status} {text[:100]!r}"] += 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def change(server: Server, http: httpx.AsyncClient, load: Load, paths: dict[str, Path]) -> None:
    """Takes both adapters away and brings them back; between, others have been answered."""

    async def post(path: str, **body: str) -> None:
        (await http.post(path, json=body, headers=ADMIN)).raise_for_status()

    async def reread() -> None:
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "reloaded")

    away = paths[BY_DIRECTORY].parents[1] / "away"
    await post("/v1/unload_lora_adapter", lora_name=BY_ROUTE)
    paths[BY_DIRECTORY].rename(away)
    await reread()
    answered = load.outcomes.total()
    await until(lambda: load.outcomes.total() >= answered + CLIENTS)
    await post("/v1/load_lora_adapter", lora_name=BY_ROUTE, lora_path=str(paths[BY_ROUTE]))
    away.rename(paths[BY_DIRECTORY])
    await reread()
    answered = load.outcomes.total()
    await until(lambda: load.outcomes.total() >= answered + CLIENTS)


async def run(server: Server, paths: dict[str, Path], rounds: int) -> Load:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        pairs = [(name, prompt) for name in NAMES for prompt in PROMPTS]
        alone = {pair: (await ask(http, *pair, stream=False))[1] for pair in pairs}
        if len(set(alone.values())) < len(pairs):
            raise click.ClickException("the adapters do not change what the model says")
        load = Load(http, alone)
        clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
        for _ in range(rounds):
            await change(server, http, load, paths)
        load.is_over = True
        await asyncio.gather(*clients)
        return load


@click.command(help=__doc__)
@click.option("--rounds", default=10, show_default=True, help="How often both adapters go and come back.")
def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "adapters").mkdir()
        written = write_adapters(str(demo.PATH), folder, len(NAMES) - 1, 8, "all-linear", size=0.3)
        paths = {name: folder / "adapters" / name if name != BY_ROUTE else path for name, path in written.items()}
        for adapter, path in paths.items():
            written[adapter].rename(path)
        flags = ("--max-batch=16", f"--adapter={BY_ROUTE}={paths[BY_ROUTE]}")
        settings = {"adapter_dir": folder / "adapters", "admin_key": "operator", "dtype": "float32"}
        with running(*flags, **settings) as server:
            load = asyncio.run(run(server, paths, rounds))
    for outcome, count in (load.outcomes + load.problems).items():
        click.echo(f"{count} × {outcome}")
    click.echo(f"{4 * rounds} changes under load; {load.problems.total()} requests lost or wrong")
    sys.exit(1 if load.problems else 0)


if __name__ == "__main__":
    main()
