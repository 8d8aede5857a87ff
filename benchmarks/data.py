"""Tokenising beside the `tokenizers` library's own batch call, and the memory that a large corpus takes.

`python -m benchmarks.data --size 1000` makes a corpus of so many megabytes, tokenises its beginning in turns with the
library alone and as `llm-prepare` does, then all of it as `llm-prepare` does, opens its shards again, and trains a
small model on it and on a corpus of no size. What the one run takes beyond the other is the corpus's.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from threading import Event, Thread
from typing import Any

import click
import numpy as np
import psutil

from llm_jax import demo

SYLLABLES = [c + v + e for c in "bcdfghjklmnprstvwz" for v in "aeiou" for e in ("", "n", "r", "s", "l", "t")]
VOCABULARY = 50_000  # words, as frequent as Zipf's law says
RATE, MEMORY, AGAIN = 0.8, 1500, 0.02  # of the library's rate; MB; of the first start's time
CORPUS, PART, TINY = "corpus.txt", "part.txt", "tiny.txt"
TURNS = 2  # of the library and of this
TRAINING = [
    *("model.hidden_size=64", "model.num_layers=2", "model.num_heads=2", "model.max_seq_len=256"),
    *("training.batch_size=8", "training.length=100 steps", "model.positions=rotary"),
    *("training.run_validation=false", "data.tokenizer_type=hf"),
]  # fmt: skip


@click.command()
@click.option("--size", default=100, show_default=True, help="Megabytes of the corpus.")
@click.option("--part", default=100, show_default=True, help="Megabytes of it that the library tokenises too.")
@click.option("--tokenizer", default=str(demo.PATH), help="Directory of a tokenizer.  [default: the demo model's]")
@click.option("--phases", default="library,prepare,again,train", show_default=True, help="What to measure.")
@click.option("--folder", type=Path, help="Where the corpus and its tokens are left.  [default: a temporary folder]")
def main(size: int, part: int, tokenizer: str, phases: str, folder: Path | None) -> None:
    """Print one JSON object, and whether the figures are those that are wanted; exits with 1 where one is not."""
    place = Path(tempfile.mkdtemp()) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    corpus, beginning, tiny, cache = place / CORPUS, place / PART, place / TINY, place / "cache"
    try:
        for path, nbytes in ((corpus, size * 1_000_000), (beginning, part * 1_000_000), (tiny, 100_000)):
            if not path.exists() or path.stat().st_size < nbytes:
                make_corpus(path, nbytes)
        found: dict[str, Any] = {"MB": size}
        chosen = phases.split(",")
        if "library" in chosen:
            turns = [["library", tokenizer, str(beginning)], ["prepare", tokenizer, str(beginning), str(cache)]]
            for turn in range(TURNS):
                shutil.rmtree(cache, ignore_errors=True)
                for phase in turns:
                    found[f"{phase[0]} on {PART}, turn {turn + 1}"] = measure(phase)
        tokenise = ["prepare", tokenizer, str(corpus), str(cache)]
        if "prepare" in chosen:
            shutil.rmtree(cache, ignore_errors=True)
            found["prepare"] = measure(tokenise)
        if "again" in chosen:
            found["again"] = measure(tokenise)
        if "train" in chosen:
            found |= {
                f"train on {path.name}": measure(["train", tokenizer, str(path), str(cache)]) for path in (tiny, corpus)
            }
        click.echo(json.dumps(found, indent=1))
    finally:
        if folder is None:
            shutil.rmtree(place)
    verdicts = list(judged(found))
    for what, ok in verdicts:
        click.echo(f"{'ok    ' if ok else 'FAILED'} {what}")
    if not all(ok for _, ok in verdicts):
        raise SystemExit(1)


def judged(found: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """What was measured, in words, and whether it is as wanted."""
    first, again = found.get("prepare"), found.get("again")
    theirs, ours = (
        [phase["mb_per_second"] for name, phase in found.items() if name.startswith(f"{kind} on {PART}")]
        for kind in ("library", "prepare")
    )
    if ours:
        rate, library = median(ours), median(theirs)
        stated = f"{rate:.2f} MB/s, {rate / library:.2f} of the library's {library:.2f}; at least {RATE}"
        yield f"tokenising the beginning, in turns: {stated}", rate >= RATE * library
    if first:
        peak, rate = first["resident_mb"], first["mb_per_second"]
        yield f"tokenising: {rate:.2f} MB/s, {peak:,.0f} MB resident, all processes; below {MEMORY:,}", peak < MEMORY
    if first and again:
        share = again["seconds"] / first["seconds"]
        wanted = again["seconds"] < max(1.0, AGAIN * first["seconds"])
        yield f"a second start: {again['seconds']:.2f} s, {share:.1%} of the first; below 1 s or {AGAIN:.0%}", wanted
    if f"train on {CORPUS}" in found:
        large, small = (found[f"train on {name}"]["resident_mb"] for name in (CORPUS, TINY))
        beyond = large - small
        yield f"training: {beyond:,.0f} MB resident beyond a run on a tiny corpus; below {MEMORY:,}", beyond < MEMORY


def make_corpus(path: Path, nbytes: int) -> None:
    """Documents of 5 to 200 words; a shorter corpus is the beginning of a longer one."""
    random, draw = Random(0), np.random.default_rng(0)
    words = np.array(
        ["".join(random.choices(SYLLABLES, k=random.choice([1, 1, 2, 2, 3, 4]))) for _ in range(VOCABULARY)], object
    )
    with path.open("w") as file:
        while file.tell() < nbytes:
            ranks = (VOCABULARY ** draw.random(20_000)).astype(int)  # one is as frequent as log(1 + 1 / rank)
            drawn = iter(words[ranks - 1])
            while document := " ".join(islice(drawn, random.randint(5, 200))):
                file.write(document.capitalize() + ".\n\n")


def measure(arguments: list[str]) -> dict[str, float]:
    """What a phase prints, run in a process of its own, with the peak of the memory of all its processes."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.data", "--phase", *arguments], stdout=subprocess.PIPE)
    peaks, done = {"resident_mb": 0.0, "anonymous_mb": 0.0}, Event()

    def watch() -> None:
        while not done.wait(0.2):
            try:
                own = psutil.Process(process.pid)
                tree = [found.memory_info() for found in (own, *own.children(recursive=True))]
            except psutil.Error:
                continue
            peaks["resident_mb"] = max(peaks["resident_mb"], sum(memory.rss for memory in tree) / 1e6)
            # Without pages of mapped files, which the system takes back when it wants them.
            anonymous = sum(memory.rss - memory.shared for memory in tree) / 1e6
            peaks["anonymous_mb"] = max(peaks["anonymous_mb"], anonymous)

    watcher = Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{arguments[0]} failed")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return {**result, **{name: round(value) for name, value in peaks.items()}}


def run_library(tokenizer: str, corpus: str) -> dict[str, float]:
    """The library's batch call on all its threads, timed without reading the corpus."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    seconds, tokens = 0.0, 0
    with open(corpus) as file:
        while lines := file.readlines(1 << 22):
            documents = [line for line in lines if line.strip()]
            start = time.perf_counter()
            encoded = backend.encode_batch_fast(documents, add_special_tokens=False)
            seconds += time.perf_counter() - start
            tokens += sum(map(len, encoded))
    return {"seconds": seconds, "tokens": tokens, "mb_per_second": os.path.getsize(corpus) / 1e6 / seconds}


def run_prepare(tokenizer: str, corpus: str, cache: str) -> dict[str, float]:
    """What `llm-prepare` does, from the files to the shards."""
    from llm_jax.data import prepare
    from llm_jax.tokenizers import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    start = time.perf_counter()
    sequences = prepare(corpus, loaded, "text", cache=cache)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": len(sequences.stream),
        "mb_per_second": os.path.getsize(corpus) / 1e6 / seconds,
    }


def run_training(tokenizer: str, corpus: str, cache: str) -> dict[str, float]:
    """A small model, the same number of steps on every corpus."""
    from llm_jax.training import Setting, load_train_config, train

    run = tempfile.mkdtemp()
    settings = [
        *TRAINING, f"data.tokenizer_path={tokenizer}", f"data.dataset_path={corpus}", f"data.cache_dir={cache}",
        f"checkpoint.checkpoint_dir={run}", "logging.log_level=ERROR",
    ]  # fmt: skip
    start = time.perf_counter()
    result = train("lm", load_train_config(environ={}, overrides=[Setting.parse(text, "here") for text in settings]))
    shutil.rmtree(run)
    return {"seconds": time.perf_counter() - start, "steps": result.progress.step}


PHASES = {"library": run_library, "prepare": run_prepare, "train": run_training}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--phase"]:
        print(json.dumps(PHASES[sys.argv[2]](*sys.argv[3:])))
    else:
        main()
