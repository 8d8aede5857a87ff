"""Start-up time of the commands: `--help` of each, and `llm-serve` until it is ready.

Prints a table of the quickest times. The first start of a server compiles everything; later ones load its programs.
"""

import os
import subprocess
import sys
import tempfile
import time

COMMANDS = ["train", "serve", "generate", "evaluate", "convert"]


def seconds_of(*arguments: str, repeats: int = 5) -> float:
    """The quickest of several runs of a Python process."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return min(times)


def seconds_to_ready(cache: str) -> float:
    """From the start of `llm-serve` with the demo model, the process's own included, to its line "ready"."""
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "cli.serve", "--port", "0", "--log-format", "json"],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    for line in server.stdout:
        if '"event": "ready"' in line:
            break
    seconds = time.perf_counter() - started
    server.terminate()
    server.communicate()
    if server.returncode != 0:
        raise RuntimeError(f"llm-serve ended with {server.returncode}")
    return seconds


def main() -> None:
    print(f"{'python, click alone':28} {seconds_of('-c', 'import click'):6.2f} s")
    for command in COMMANDS:
        print(f"{f'cli.{command} --help':28} {seconds_of('-m', f'cli.{command}', '--help'):6.2f} s")
    with tempfile.TemporaryDirectory() as cache:
        print(f"{'llm-serve, empty cache':28} {seconds_to_ready(cache):6.2f} s", flush=True)
        print(f"{'llm-serve, warm cache':28} {min(seconds_to_ready(cache) for _ in range(3)):6.2f} s")


if __name__ == "__main__":
    main()
