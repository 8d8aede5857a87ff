"""Three replicas behind nginx, as deploy/nginx has it: each is restarted in turn under load, and no request may fail.

    python scripts/check_rolling_restart.py [--clients 12]

Needs nginx (`apt install nginx-light`). It serves the demo model on free ports.
"""

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import httpx

CONF = Path(__file__).parents[1] / "deploy/nginx/llm.conf"
READY = 120  # seconds within which a replica must be
MAIN = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/llm.conf;
}}
"""


class Replica:
    """A server on a port, which can be restarted there."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.serve", "--port", str(self.port), "--max-batch", "4", "--log-level", "ERROR"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(READY), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"http://127.0.0.1:{self.port}/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.1)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


class Load:
    """Clients that ask again and again, half of them for streams.

    Attributes:
        outcomes: how many requests ended in which way; all should be "whole".
    """

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = url
        self._is_over = False

    def end(self) -> None:
        self._is_over = True

    async def client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            while not self._is_over:
                try:
                    self.outcomes[await self._ask(client, stream=number % 2 == 0)] += 1
                except httpx.HTTPError as error:
                    self.outcomes[repr(error)] += 1

    async def _ask(self, client: httpx.AsyncClient, *, stream: bool) -> str:
        body = {"prompt": "Once upon a time", "max_tokens": 60, "stream": stream}
        response = await client.post("/v1/completions", json=body)
        if response.status_code != 200:
            return f"{response.status_code}: {response.text[:200]}"
        if stream:
            return "whole" if response.text.endswith("data: [DONE]\n\n") else "a stream without an end"
        return "whole" if json.loads(response.text)["choices"][0]["finish_reason"] else "no end"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


async def rolling_restart(clients: int, folder: Path) -> Counter[str]:
    front, *ports = free_ports(4)
    text = CONF.read_text(encoding="utf-8").replace("listen 8080", f"listen 127.0.0.1:{front}")
    for old, port in zip(re.findall(r"127\.0\.0\.1:(800\d)", text), ports, strict=True):
        text = text.replace(old, str(port))
    (folder / "llm.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
    replicas = [Replica(port) for port in ports]
    await asyncio.gather(*(replica.start() for replica in replicas))
    proxy = await asyncio.create_subprocess_exec("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    load = Load(f"http://127.0.0.1:{front}")
    try:
        await asyncio.sleep(1)
        running = [asyncio.create_task(load.client(number)) for number in range(clients)]
        for number, replica in enumerate(replicas):
            await asyncio.sleep(2)
            begin = time.perf_counter()
            code = await replica.stop()
            await replica.start()
            seconds = time.perf_counter() - begin
            click.echo(
                f"replica {number}: exit {code}, ready after {seconds:.1f} s; {sum(load.outcomes.values())} requests"
            )
            if code:
                load.outcomes[f"replica {number} ended with {code}"] += 1
        await asyncio.sleep(2)
        load.end()
        await asyncio.gather(*running)
    finally:
        proxy.terminate()
        await proxy.wait()
        await asyncio.gather(*(replica.stop() for replica in replicas))
    return load.outcomes


@click.command(help=__doc__)
@click.option("--clients", default=12, show_default=True)
def main(clients: int) -> None:
    if shutil.which("nginx") is None:
        sys.exit("nginx is not installed: apt install nginx-light")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(rolling_restart(clients, Path(folder)))
    whole = outcomes.pop("whole", 0)
    for outcome, count in outcomes.items():
        click.echo(f"{count} × {outcome}")
    click.echo(f"{whole} requests answered whole, {sum(outcomes.values())} failed")
    sys.exit(1 if outcomes or not whole else 0)


if __name__ == "__main__":
    main()
