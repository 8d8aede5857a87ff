"""Prometheus reads a server under load: each expression of the dashboard and of the alert rules must give a value.

    python scripts/check_prometheus.py [--seconds 20]

Needs prometheus and promtool (`apt install prometheus`). The load has requests that end, are refused and take too long.
"""

import concurrent.futures
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.check_rolling_restart import free_ports  # noqa: E402 (found by the path above)
from tests.deploy import DEPLOY, queries  # noqa: E402 (found by the path above)
from tests.server.live import running  # noqa: E402 (found by the path above)

RATE = "15s"
CLIENTS = 12
THRESHOLD = re.compile(r"\s*[<>=]+ *[\d.]+\s*$")  # an alert is silent below it; what is compared must have a value


def ask(url: str, number: int, until: float) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        while time.monotonic() < until:
            tokens = 400 if number % 4 == 0 else 8
            client.post("/v1/completions", json={"prompt": "Once upon", "max_tokens": tokens, "ignore_eos": True})


def value(prometheus: str, expression: str) -> bool:
    """Whether an expression has a value that is a number."""
    expression = THRESHOLD.sub("", expression.replace("$__rate_interval", RATE))
    expression = re.sub(r"\[\d+m\]", f"[{RATE}]", expression)
    response = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression})
    result = response.raise_for_status().json()["data"]["result"]
    return bool(result) and any(sample["value"][1] != "NaN" for sample in result)


@click.command(help=__doc__)
@click.option("--seconds", default=20.0, show_default=True, help="Of load.")
def main(seconds: float) -> None:
    if shutil.which("prometheus") is None:
        sys.exit("prometheus is not installed: apt install prometheus")
    subprocess.run(["promtool", "check", "config", str(DEPLOY / "prometheus/prometheus.yml")], check=True)
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as name, running(max_queue=2, request_timeout=1.0) as server:
        folder = Path(name)
        config = (DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8")
        config = config.replace("server:8000", server.url.removeprefix("http://")).replace(
            "interval: 5s", "interval: 1s"
        )
        (folder / "prometheus.yml").write_text(config, encoding="utf-8")
        shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
        flags = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/data", "--log.level=error"]
        prometheus = subprocess.Popen(["prometheus", f"--config.file={folder}/prometheus.yml", *flags])
        try:
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda n: ask(server.url, n, time.monotonic() + seconds), range(CLIENTS)))
            url = f"http://127.0.0.1:{port}"
            silent = [expression for expression in queries() if not value(url, expression)]
            groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
            loaded = sum(len(group["rules"]) for group in groups)
        finally:
            prometheus.terminate()
            prometheus.wait()
    for expression in silent:
        click.echo(f"without a value: {expression}")
    click.echo(f"{loaded} rules loaded; {len(queries()) - len(silent)} of {len(queries())} expressions have a value")
    sys.exit(1 if silent or not loaded else 0)


if __name__ == "__main__":
    main()
