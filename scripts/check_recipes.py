"""Run recipes of configs/ as they are, and check what they reach: `make check-recipes` (about half an hour on 2 cores).

The demo model learns to answer orders as JSON, with all of its parameters and with an adapter of 5 % of them; it learns
which of two answers is better; SmolLM2 learns the orders from 200 conversations, if `make real-models` has fetched it.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / ".cache" / "real" / "smollm2-135m-instruct-q4_1.gguf"
RUNS = ROOT / "build" / "recipes"


def python(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(name: str, task: str, recipe: str, data: Path, *flags: str) -> dict[str, Any]:
    """The last evaluation of a run, its share of trained parameters, and what it took."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    settings = [f"data.dataset_path={data}", "logging.log_level=WARNING", *flags]
    sets = [part for setting in settings for part in ("--set", setting)]
    run = RUNS / name
    python("-m", "cli.train", "--task", task, "--config-path", f"configs/{recipe}.yaml", "--checkpoint-dir", run, *sets)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    started_as = next(record for record in records if record["event"] == "run")
    last = [record for record in records if record["event"] == "epoch"][-1]
    last |= {
        "share": started_as["trainable"] / started_as["parameters"],
        "seconds": time.perf_counter() - started,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    return last


def score(model: Path | str) -> float:
    """The share of 50 held-out orders that a model answers to the letter."""
    said = python("scripts/make_conversations.py", "--score", model, "--count", 50, "--seed", 1)
    return float(said.split("%")[0]) / 100


def check(what: str, ok: bool) -> None:
    print(("ok    " if ok else "FAILED"), what, flush=True)
    if not ok:
        sys.exit(1)


def main() -> None:
    orders, few, preferences = (RUNS / f"{name}.jsonl" for name in ("orders", "few", "preferences"))
    for file, more in (
        (orders, ["--count", 2000]),
        (few, ["--count", 200]),
        (preferences, ["--preferences", "--count", 400]),
    ):
        python("scripts/make_conversations.py", "--output", file, *more)
    full = train("full", "sft", "full", orders)
    before, after = score("llm_jax/demo"), score(RUNS / "full")
    check(f"demo model, all parameters: {before:.0%} -> {after:.0%}, {report(full)}", before == 0 and after >= 0.9)
    lora = train("lora", "sft", "full", orders, "lora.rank=7", "lora.alpha=14", "training.lr=0.01")
    close = lora["validation_loss"] <= 1.05 * full["validation_loss"] and lora["share"] < 0.05
    check(f"demo model, {lora['share']:.1%} of the parameters: {score(RUNS / 'lora'):.0%}, {report(lora)}", close)
    dpo = train("dpo", "dpo", "dpo", preferences)
    accurate = dpo["validation_margin"] > 0 and dpo["validation_accuracy"] >= 0.95
    check(f"demo model, preferences: margin {dpo['validation_margin']:.2f} of held-out pairs, {report(dpo)}", accurate)
    if not SMOLLM2.exists():
        print(f"{SMOLLM2.name} is not here: run `make real-models`")
        return
    smol = train("smollm2", "sft", "lora", few, f"model.init_from={SMOLLM2}")
    reached = score(RUNS / "smollm2")
    check(f"SmolLM2, LoRA on 200 conversations: {reached:.0%}, {report(smol)}", reached >= 0.8)


def report(run: dict[str, Any]) -> str:
    seconds = f"{run['seconds']:.0f} s ({run['cpu_seconds']:.0f} s of processors)"
    return f"validation loss {run['validation_loss']:.4f} in {seconds}"


if __name__ == "__main__":
    main()
