"""Streaming clients against a server: tokens per second, time to the first token, gaps, and what the HTTP layer costs.

    python -m benchmarks.load MODEL [--clients 16,64] [-- FLAG …]

starts `llm-serve` with those flags, and runs the same load on the engine without HTTP. With --url, and a model's path
for its vocabulary, a server that runs already is measured, of whatever make, such as llama-server.
"""

import asyncio
import itertools
import json
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import numpy as np

from benchmarks.serving import Served

if TYPE_CHECKING:
    from llm_jax.inference import Engine

PROMPT = 64  # tokens
WARMUP = 1  # requests of each client that are not counted


@dataclass
class Measured:
    """One request of one client: when it was sent, when its pieces arrived (seconds), how many tokens they are."""

    sent: float
    arrived: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def first_token(self) -> float:
        return self.arrived[0] - self.sent


@dataclass
class Load:
    """Clients, each of which sends its next request when the last one has been answered."""

    clients: int
    requests: int  # of each client
    new_tokens: int
    vocab_size: int
    prompt: int = PROMPT
    models: Sequence[str] = ("llm",)  # clients take them in turn

    def prompts(self) -> list[list[list[int]]]:
        """For each client, the prompts of its requests: random ids, so that no cache helps."""
        rng = np.random.default_rng(self.clients)
        shape = (self.clients, self.requests, self.prompt)
        return [row.tolist() for row in rng.integers(10, self.vocab_size, shape)]


def summary(name: str, load: Load, requests: Sequence[Measured]) -> str:
    begin = min(request.sent for request in requests)
    seconds = max(request.arrived[-1] for request in requests) - begin
    rate = sum(request.tokens for request in requests) / seconds
    first = np.percentile([request.first_token for request in requests], [50, 99]) * 1e3
    gaps = [later - earlier for request in requests for earlier, later in itertools.pairwise(request.arrived)]
    gap = np.percentile(gaps, [50, 99]) * 1e3
    return (
        f"{name:12} {load.clients:3} clients: {rate:7.1f} tokens/s, "
        f"first token {first[0]:6.1f} ms (p99 {first[1]:6.1f}), gap {gap[0]:5.1f} ms (p99 {gap[1]:5.1f})"
    )


class Connection(asyncio.Protocol):
    """A keep-alive connection that counts the frames of a stream as they arrive, and does little else."""

    def __init__(self) -> None:
        self.measured = Measured(0.0)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def send(self, request: bytes) -> Measured:
        self.measured, self._received = Measured(time.perf_counter()), b""
        self.finished = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self.finished
        return self.measured

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        seen = self._received.count(b"data: {")
        self._received += data
        self.measured.arrived += [now] * (self._received.count(b"data: {") - seen)
        if self._received.endswith(b"0\r\n\r\n") and not self.finished.done():
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(ConnectionError(self._received.decode(errors="replace")[-500:]))

    def _finish(self) -> None:
        frames = [line[6:] for line in self._received.split(b"\n") if line.startswith(b"data: {")]
        usage = json.loads(frames[-1]).get("usage") if frames else None
        if not usage:
            self.finished.set_exception(RuntimeError(f"no usage at the end: {self._received[-500:]!r}"))
            return
        self.measured.tokens = usage["completion_tokens"]
        self.measured.arrived.pop()  # the usage
        self.finished.set_result(None)


async def over_http(url: str, load: Load, key: str = "none") -> list[Measured]:
    address = urlsplit(url)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n"

    def request(prompt: list[int], model: str) -> bytes:
        options = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        body = {"prompt": prompt, "max_tokens": load.new_tokens, "temperature": 0, "model": model, **options}
        content = json.dumps(body).encode()
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    async def client(prompts: list[list[int]], model: str) -> list[Measured]:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(Connection, address.hostname, address.port)
        try:
            return [await connection.send(request(prompt, model)) for prompt in prompts]
        finally:
            transport.close()

    answers = await asyncio.gather(*map(client, load.prompts(), itertools.cycle(load.models)))
    return [request for requests in answers for request in requests]


def on_engine(engine: "Engine", load: Load) -> list[Measured]:
    """The same load without HTTP: the next request of a client is sent by the last token of the one before."""
    from llm_jax.inference import Request, SamplingParams, TokenEvent

    measured: list[Measured] = []
    unfinished = load.clients * load.requests
    done = threading.Event()
    sampling = SamplingParams(max_new_tokens=load.new_tokens, temperature=0)

    def begin(prompts: list[list[int]]) -> None:
        current = Measured(time.perf_counter())
        measured.append(current)

        def on_event(event: TokenEvent | Exception) -> None:
            nonlocal unfinished
            if isinstance(event, Exception):
                raise event
            current.arrived.append(time.perf_counter())
            current.tokens += 1
            if event.finish:
                unfinished -= 1
                if len(prompts) > 1:
                    begin(prompts[1:])
                elif not unfinished:
                    done.set()

        engine.submit(Request(prompt_ids=tuple(prompts[0]), sampling=sampling), on_event)

    for prompts in load.prompts():
        begin(prompts)
    done.wait()
    return measured


def processor_seconds(pid: int) -> tuple[float, float]:
    """Of a process, and of its main thread, where uvicorn's event loop runs."""

    def seconds(stat: Path) -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    return seconds(Path(f"/proc/{pid}/stat")), seconds(Path(f"/proc/{pid}/task/{pid}/stat"))


class Profile:
    """py-spy's samples of a process, while the context lasts."""

    def __init__(self, pid: int) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._file = Path(self._directory.name) / "samples"
        command = ["record", "--pid", str(pid), "--duration", "3600", "--rate", "200", "--threads", "--format", "raw"]
        self._sampler = subprocess.Popen(
            ["py-spy", *command, "--output", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.send_signal(signal.SIGINT)
        self._sampler.wait()

    def lines(self, most: int = 12) -> list[str]:
        """Where the event loop's thread is when it runs: the innermost of our functions, or the loop itself."""
        counts: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if "MainThread" in stack:
                frames = [frame for frame in stack.split(";") if "(server/" in frame or "/server/" in frame]
                counts[frames[-1].strip() if frames else "uvicorn, starlette, the loop"] += int(count)
        total = sum(counts.values())
        return [f"  {100 * count / total:5.1f} %  {name}" for name, count in counts.most_common(most)]


def measure_server(url: str, loads: Sequence[Load], name: str, pid: int | None, *, profile: bool) -> None:
    for load in loads:
        asyncio.run(over_http(url, replace(load, requests=WARMUP)))
        before = processor_seconds(pid) if pid else (0.0, 0.0)
        line = summary(name, load, asyncio.run(over_http(url, load)))
        if pid:
            total, http = (b - a for a, b in zip(before, processor_seconds(pid), strict=True))
            line += f", HTTP {100 * http / total:.1f} % of {total:.1f} s of processor time"
        click.echo(line)
        if pid and profile:
            with Profile(pid) as samples:
                asyncio.run(over_http(url, load))
            click.echo("\n".join(samples.lines()))


def measure_engine(model: str, loads: Sequence[Load], flags: Sequence[str]) -> None:
    from cli.serve import main as serve
    from llm_jax.hub import load_with_tokenizer
    from llm_jax.inference import Engine

    given = serve.make_context("llm-serve", list(flags)).params
    names: dict[str, str] = {
        "dtype": "dtype",
        "kv_dtype": "kv_dtype",
        "max_batch": "max_batch",
        "kv_memory": "kv_memory",
    }
    loaded, _ = load_with_tokenizer(model)
    chosen = {to: given[key] for key, to in names.items() if given.get(key) is not None}
    engine = Engine(loaded.model, **{"dtype": "auto", **chosen})
    engine.warmup(complete=False)
    engine.start()
    try:
        for load in loads:
            on_engine(engine, replace(load, requests=WARMUP))
            click.echo(summary("engine alone", load, on_engine(engine, load)))
    finally:
        engine.close()


@click.command(help=__doc__)
@click.argument("model")
@click.argument("flags", nargs=-1)
@click.option("--clients", default="16,64", show_default=True, help="Numbers of clients, separated by commas.")
@click.option("--requests", default=4, show_default=True, help="Requests of each client.")
@click.option("--new-tokens", default=64, show_default=True, help="Tokens of each answer.")
@click.option("--vocab", default=49152, show_default=True, help="Ids to draw prompts from.")
@click.option("--url", help="A server that runs already.")
@click.option("--pid", type=int, help="Its process, to read its processor time.")
@click.option("--profile", is_flag=True, help="Sample the event loop's thread with py-spy, in a run of its own.")
@click.option("--checkout", type=click.Path(exists=True, path_type=Path), default=Path(), help="Build that serves.")
def main(
    model: str,
    flags: tuple[str, ...],
    clients: str,
    requests: int,
    new_tokens: int,
    vocab: int,
    url: str | None,
    pid: int | None,
    profile: bool,
    checkout: Path,
) -> None:
    loads = [Load(int(number), requests, new_tokens, vocab) for number in clients.split(",")]
    if url:
        measure_server(url, loads, "server", pid, profile=profile)
        return
    server = Served(model, checkout.resolve(), flags)
    try:
        server.wait_for_programs()
        measure_server(server.url, loads, "llm-serve", server.process.pid, profile=profile)
    finally:
        server.close()
    measure_engine(model, loads, flags)


if __name__ == "__main__":
    main()
