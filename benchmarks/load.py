"""Streaming clients against a server: tokens per second, time to the first token, gaps, and what the HTTP layer costs.

    python -m benchmarks.load MODEL [--clients 16,64] [--rounds 3] [-- FLAG …]

starts `llm-serve` with those flags, and runs the same load on the engine without HTTP, in turns; at the end stand the
medians over the rounds. Answers differ in length, by the same draw for both: clients whose answers are equally long go
on in step, in one of several rhythms, and the rate is that of the rhythm they started in. With --url, and a model's
path for its vocabulary, a server that runs already is measured, of whatever make, such as llama-server.
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
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import click
import numpy as np
import uvloop

from benchmarks.machine import describe
from benchmarks.serving import Served

if TYPE_CHECKING:
    from llm_jax.inference import Engine

PROMPT = 64  # tokens
WARMUP = 1  # requests of each client that are not counted


@dataclass
class Measured:
    """One request of one client: when it was sent, when its pieces arrived (seconds), how many tokens they are.

    Attributes:
        is_last: the client sends no other.
    """

    sent: float
    arrived: list[float] = field(default_factory=list)
    tokens: int = 0
    is_last: bool = False

    @property
    def first_token(self) -> float:
        return self.arrived[0] - self.sent

    def tokens_until(self, moment: float) -> float:
        return self.tokens * sum(time <= moment for time in self.arrived) / len(self.arrived)


class Order(NamedTuple):
    """What a request asks for."""

    prompt: list[int]
    new_tokens: int


@dataclass
class Load:
    """Clients, each of which sends its next request when the last one has been answered."""

    clients: int
    requests: int  # of each client
    new_tokens: int  # of an answer on average, from half as many to half as many more
    vocab_size: int
    prompt: int = PROMPT
    models: Sequence[str] = ("llm",)  # clients take them in turn

    def orders(self) -> list[list[Order]]:
        """For each client, what it asks for: prompts are random ids, so that no cache helps."""
        rng = np.random.default_rng(self.clients)
        prompts = rng.integers(10, self.vocab_size, (self.clients, self.requests, self.prompt)).tolist()
        spread = self.new_tokens // 2
        lengths = rng.integers(
            self.new_tokens - spread, self.new_tokens + spread + 1, (self.clients, self.requests)
        ).tolist()
        return [[*map(Order, *client)] for client in zip(prompts, lengths, strict=True)]


class Figures(NamedTuple):
    """Tokens per second until one client is done; milliseconds to the first token, and between two.

    Of both the median and the 99th percentile.
    """

    rate: float
    first: float
    first_p99: float
    gap: float
    gap_p99: float

    @classmethod
    def of(cls, requests: Sequence[Measured]) -> "Figures":
        begin = min(request.sent for request in requests)
        end = min(request.arrived[-1] for request in requests if request.is_last)
        first = [request.first_token for request in requests]
        gaps = [later - earlier for request in requests for earlier, later in itertools.pairwise(request.arrived)]
        times = [float(time) * 1e3 for spans in (first, gaps) for time in np.percentile(spans, [50, 99])]
        return cls(sum(request.tokens_until(end) for request in requests) / (end - begin), *times)


def summary(name: str, clients: int, figures: Figures) -> str:
    rate, first, first_p99, gap, gap_p99 = figures
    return (
        f"{name:12} {clients:3} clients: {rate:7.1f} tokens/s, "
        f"first token {first:6.1f} ms (p99 {first_p99:6.1f}), gap {gap:5.1f} ms (p99 {gap_p99:5.1f})"
    )


class Connection(asyncio.Protocol):
    """A keep-alive connection that counts the frames of a stream as they arrive, and does little else."""

    def __init__(self) -> None:
        self.measured = Measured(0.0)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods alone

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

    def request(order: Order, model: str) -> bytes:
        options = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        body = {"prompt": order.prompt, "max_tokens": order.new_tokens, "temperature": 0, "model": model, **options}
        content = json.dumps(body).encode()
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    async def client(orders: list[Order], model: str) -> list[Measured]:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(Connection, address.hostname, address.port)
        try:
            answers = [await connection.send(request(order, model)) for order in orders]
        finally:
            transport.close()
        answers[-1].is_last = True
        return answers

    answers = await asyncio.gather(*map(client, load.orders(), itertools.cycle(load.models)))
    return [request for requests in answers for request in requests]


def on_engine(engine: "Engine", load: Load) -> list[Measured]:
    """The same load without HTTP: the next request of a client is sent by the last token of the one before."""
    from llm_jax.inference import Request, SamplingParams, TokenEvent

    measured: list[Measured] = []
    unfinished = load.clients * load.requests
    done = threading.Event()

    def begin(orders: list[Order]) -> None:
        current = Measured(time.perf_counter(), is_last=len(orders) == 1)
        measured.append(current)

        def on_event(event: TokenEvent | Exception) -> None:
            nonlocal unfinished
            if isinstance(event, Exception):
                raise event
            current.arrived.append(time.perf_counter())
            current.tokens += 1
            if event.finish:
                unfinished -= 1
                if len(orders) > 1:
                    begin(orders[1:])
                elif not unfinished:
                    done.set()

        sampling = SamplingParams(max_new_tokens=orders[0].new_tokens, temperature=0)
        engine.submit(Request(prompt_ids=tuple(orders[0].prompt), sampling=sampling), on_event)

    for orders in load.orders():
        begin(orders)
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


def measure_server(url: str, load: Load, name: str, pid: int | None, *, profile: bool) -> Figures:
    uvloop.run(over_http(url, replace(load, requests=WARMUP)))
    before = processor_seconds(pid) if pid else (0.0, 0.0)
    figures = Figures.of(uvloop.run(over_http(url, load)))
    line = summary(name, load.clients, figures)
    if pid:
        total, http = (b - a for a, b in zip(before, processor_seconds(pid), strict=True))
        line += f", HTTP {100 * http / total:.1f} % of {total:.1f} s of processor time"
    click.echo(line)
    if pid and profile:
        with Profile(pid) as samples:
            uvloop.run(over_http(url, load))
        click.echo("\n".join(samples.lines()))
    return figures


def measure_engine(engine: "Engine", load: Load) -> Figures:
    on_engine(engine, replace(load, requests=WARMUP))
    figures = Figures.of(on_engine(engine, load))
    click.echo(summary("engine alone", load.clients, figures))
    return figures


def running_engine(model: str, flags: Sequence[str]) -> "Engine":
    """The engine that `llm-serve` has with these flags."""
    from cli.serve import main as serve
    from llm_jax.hub import load_with_tokenizer
    from llm_jax.inference import Engine

    given = serve.make_context("llm-serve", list(flags)).params
    names = ("dtype", "kv_dtype", "max_batch", "kv_memory")
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    engine = Engine(load_with_tokenizer(model)[0].model, **{"dtype": "auto", **chosen})
    engine.warmup()
    engine.start()
    return engine


def conclusion(server: dict[int, list[Figures]], engine: dict[int, list[Figures]]) -> str:
    """Medians over the rounds, by number of clients, and their ratios; turns that stand side by side are compared."""
    lines, fewest = [], min(server)
    for clients, rounds in server.items():
        pairs = list(zip(rounds, engine[clients], strict=True))
        line = f"{clients:3} clients: {median(each.rate for each in rounds):.1f} tokens/s, "
        line += (
            f"{median(a.rate / b.rate for a, b in pairs):.2f} of the engine's {median(b.rate for _, b in pairs):.1f}; "
        )
        line += f"first token's p99 {median(a.first_p99 / b.first_p99 for a, b in pairs):.2f} times the engine's"
        if clients > fewest:
            ratio = median(a.rate / b.rate for a, b in zip(rounds, server[fewest], strict=True))
            line += f"; {ratio:.2f} times the rate of {fewest} clients"
        lines.append(line)
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("model")
@click.argument("flags", nargs=-1)
@click.option("--clients", default="16,64", show_default=True, help="Numbers of clients, separated by commas.")
@click.option("--rounds", default=1, show_default=True, help="Turns of each.")
@click.option("--requests", default=4, show_default=True, help="Requests of each client.")
@click.option("--new-tokens", default=64, show_default=True, help="Tokens of an answer, on average.")
@click.option("--vocab", default=49152, show_default=True, help="Ids to draw prompts from.")
@click.option("--url", help="A server that runs already.")
@click.option("--pid", type=int, help="Its process, to read its processor time.")
@click.option("--profile", is_flag=True, help="Sample the event loop's thread with py-spy, in a run of its own.")
@click.option("--checkout", type=click.Path(exists=True, path_type=Path), default=Path(), help="Build that serves.")
def main(
    model: str,
    flags: tuple[str, ...],
    clients: str,
    rounds: int,
    requests: int,
    new_tokens: int,
    vocab: int,
    url: str | None,
    pid: int | None,
    profile: bool,
    checkout: Path,
) -> None:
    loads = [Load(number, requests, new_tokens, vocab) for number in sorted({*map(int, clients.split(","))})]
    if url:
        for _, load in itertools.product(range(rounds), loads):
            measure_server(url, load, "server", pid, profile=profile)
        return
    by_server: dict[int, list[Figures]] = {load.clients: [] for load in loads}
    by_engine: dict[int, list[Figures]] = {load.clients: [] for load in loads}
    with ExitStack() as stack:
        server = Served(model, checkout.resolve(), flags)
        stack.callback(server.close)
        engine = running_engine(model, flags)
        stack.callback(engine.close)
        server.wait_for_programs()
        for _, load in itertools.product(range(rounds), loads):
            by_server[load.clients].append(
                measure_server(server.url, load, "llm-serve", server.process.pid, profile=profile)
            )
            by_engine[load.clients].append(measure_engine(engine, load))
    click.echo(json.dumps(describe()))
    click.echo(conclusion(by_server, by_engine))


if __name__ == "__main__":
    main()
