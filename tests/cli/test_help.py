"""`--help` and `--version` answer at once: they import none of the heavy libraries."""

import subprocess
import sys

import pytest

from llm_jax import __version__

COMMANDS = ["train", "prepare", "serve", "generate", "evaluate", "convert", "api_key"]
HEAVY = {
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "numpy",
    "orbax",
    "pydantic",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
}
PROBE = """
import sys
from cli.{command} import main
try:
    main(["{flag}"])
finally:
    print(*sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""


@pytest.mark.parametrize("flag", ["--help", "--version"])
@pytest.mark.parametrize("command", COMMANDS)
def test_answers_without_heavy_imports(command: str, flag: str) -> None:
    probe = PROBE.format(command=command, flag=flag, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "", "imported: " + done.stderr
    assert ("Usage:" if flag == "--help" else f", version {__version__}\nkernels ") in done.stdout
