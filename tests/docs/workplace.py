"""Where documented code runs: a fresh folder that looks like a clone after `make install`.

Code runs as it is printed, from the top of a document to its end, as a reader would run it. A block that calls
`llm-serve` starts the server, which then stays up for the blocks behind it. Three things are changed, because a test
cannot have them:

- port 8000, where something else may listen: the port in the code becomes a free one;
- the Hub: the name "gpt2" becomes a tokenizer made here;
- time: training is made small by the documented environment variables in `SMALL`, and by a corpus that is only the
  beginning of the bundled one.

`make` makes a dry run, which fails where a target does not exist.
"""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from llm_jax.tokenizers import BPETokenizer

ROOT = Path(__file__).parents[2]
DOCUMENTED_PORT = 8000
ADDRESS = re.compile(rf"(?<=127\.0\.0\.1:){DOCUMENTED_PORT}\b|(?<=localhost:){DOCUMENTED_PORT}\b")
STARTS_SERVER = re.compile(r"^llm-serve\b(?!.*--(help|version))", re.M)
CORPUS = Path("data", "dummy_corpus.txt")
CORPUS_LENGTH = 20_000  # characters
SMALL = {
    "LLM_TRAINING__EPOCHS": "1",
    "LLM_TRAINING__NUM_SAMPLES": "256",
    "LLM_MODEL__NUM_LAYERS": "1",
    "LLM_MODEL__HIDDEN_SIZE": "32",
    "LLM_MODEL__INTERMEDIATE_SIZE": "64",
    "LLM_MODEL__NUM_HEADS": "2",
    "LLM_MODEL__NUM_KV_HEADS": "2",
}


class Workplace:
    """A folder, and the server that the blocks run so far have started in it. Leave it to end the server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"

        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "configs", "scripts", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        corpus = (ROOT / CORPUS).read_text(encoding="utf-8")[:CORPUS_LENGTH]
        (folder / CORPUS).parent.mkdir()
        (folder / CORPUS).write_text(corpus, encoding="utf-8")
        BPETokenizer.train([corpus], vocab_size=300).save_pretrained(folder / "local-tokenizer")
        (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")  # an HTTP error is a failure
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "VIRTUAL_ENV"))}
        own = {
            "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
            "CURL_HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "LLM_SERVING_PORT": str(self.port),
            "MAKEFLAGS": "n",
        }
        self._environment = inherited | SMALL | own

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_server()

    def run(self, language: str, code: str) -> str:
        """Runs code of a language to its end, which must be a good one; returns what it printed.

        Code that starts a server returns, with what the server has logged, when it is ready.
        """
        code = ADDRESS.sub(str(self.port), code).replace('"gpt2"', '"local-tokenizer"')
        if language == "bash" and STARTS_SERVER.search(code):
            return self._start_server(code)
        command = {"python": [sys.executable, "-"], "bash": ["bash", "-euo", "pipefail", "-s"]}[language]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, input=code, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{code}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def _start_server(self, code: str) -> str:
        self._end_server()
        script = STARTS_SERVER.sub("exec llm-serve", code)  # so that the signal that ends it reaches the server
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-euc", script], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 120
        while not self._is_ready():
            assert self._server.poll() is None, f"llm-serve ended:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"llm-serve is not ready:\n{self._log.read_text()}"
            time.sleep(0.05)  # another process: there is no event to wait for
        return self._log.read_text()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def _end_server(self) -> None:
        """Ends the server as an operator would, and it must end well."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.terminate()
        try:
            code = server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            raise AssertionError(f"llm-serve did not end on SIGTERM:\n{self._log.read_text()}") from None
        assert code == 0, f"llm-serve ended with {code}:\n{self._log.read_text()}"


def free_port(wish: int = 0) -> int:
    """The wished port if it is free, another one otherwise."""
    for port in (wish, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("no port is free")
