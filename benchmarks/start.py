"""Start-up times: `--help` of each command, `llm-serve` until it is ready, `llm-generate`, a first `generate()`.

    python -m benchmarks.start [MODEL …]

Each is the quickest of several new processes, once with nothing stored and once with the programs that the first one
stored.
Without a MODEL, the demo model is served; paths of others are served beside it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS = ["train", "serve", "generate", "evaluate", "convert"]
REPEATS = 3

IMPORT = "import jax; jax.devices()"
# GPT-2's shape with random weights; the clock starts when the model is there.
GENERATE = """
import time
import jax
from llm_jax.config import ModelConfig
from llm_jax.inference import generate
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer

model = Model.init(ModelConfig(vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12, max_seq_len=1024))
tokenizer = CharacterTokenizer(["Once upon a time"])
tokenizer.itos = {token: "a" for token in range(50257)}
jax.block_until_ready(model.params)
started = time.perf_counter()
generate(model, tokenizer, "Once upon a time", 50, temperature=0.0)
print(time.perf_counter() - started)
"""


def seconds_of(*arguments: str, repeats: int = 5, cache: str | None = None) -> float:
    """The quickest of several runs of a Python process."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], env=_environment(cache), stdout=subprocess.DEVNULL, check=True, text=True
        )
        times.append(time.perf_counter() - started)
    return min(times)


def seconds_of_command(command: str, *arguments: str, repeats: int = REPEATS, cache: str | None = None) -> float:
    """The quickest of several runs of one of our commands."""
    code = f"from cli.{command} import main; main()"
    return seconds_of("-c", code, *arguments, repeats=repeats, cache=cache)


def seconds_to_ready(cache: str, *arguments: str) -> float:
    """From the start of `llm-serve`, the process's own included, to its line "ready"."""
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "cli.serve", "--port", "0", "--log-format", "json", *arguments],
        env=_environment(cache),
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


def seconds_of_generate(cache: str) -> float:
    """The first call of `generate()` in a new process: 50 tokens of a model of GPT-2's shape."""
    run = subprocess.run(
        [sys.executable, "-c", GENERATE], env=_environment(cache), stdout=subprocess.PIPE, check=True, text=True
    )
    return float(run.stdout)


def _environment(cache: str | None) -> dict[str, str]:
    """Where the commands keep what they compile: in this folder alone."""
    if cache is None:
        return dict(os.environ)
    library = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_jax"
    if library.is_dir():  # the native kernels, where they were not built into the package
        shutil.copytree(library, Path(cache) / library.name, dirs_exist_ok=True)
    others = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return others | {"XDG_CACHE_HOME": cache}


def _show(name: str, seconds: Callable[[str], float], *, repeats: int = REPEATS) -> None:
    """One line: the first run in an empty folder, and the quickest of those after it."""
    with tempfile.TemporaryDirectory() as cache:
        first = seconds(cache)
        later = min(seconds(cache) for _ in range(repeats))
    print(f"{name:44} {first:8.2f} s {later:8.2f} s", flush=True)


def main() -> None:
    print(f"{'python, click alone':44} {seconds_of('-c', 'import click'):8.2f} s")
    print(f"{'import jax and its devices':44} {seconds_of('-c', IMPORT):8.2f} s")
    for command in COMMANDS:
        print(f"{f'cli.{command} --help':44} {seconds_of_command(command, '--help'):8.2f} s")
    print(f"{'':44} {'nothing':>10} {'programs':>10}\n{'':44} {'stored':>10} {'stored':>10}")
    for model in [None, *sys.argv[1:]]:
        name = "demo model" if model is None else Path(model).name
        chosen = [] if model is None else ["--model", model]
        _show(f"llm-serve, {name}", lambda cache, chosen=chosen: seconds_to_ready(cache, *chosen))
        one_token = ["Once upon a time", "--max-new-tokens", "1", *chosen]
        _show(
            f"llm-generate, {name}, one token",
            lambda cache, one_token=one_token: seconds_of_command("generate", *one_token, repeats=1, cache=cache),
        )
    _show("generate(), GPT-2's shape, 50 tokens", seconds_of_generate)


if __name__ == "__main__":
    main()
