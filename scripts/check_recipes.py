"""Run recipes of configs/ by the commands in their heads, and check that they reach what they state in the stated time.

    make check-recipes
    make check-recipes RECIPES="full lora"

Each recipe has a folder of its own under build/recipes, with caches of its own, so that it does all of its work. The
stated minutes are those of two cores that do nothing else; where other work runs beside, --busy counts the processors'
time, divided by two. Of some recipes more is claimed, and checked too: what the model answers to orders that it has not
seen, that an adapter comes close to training all parameters, and how far apart chosen and rejected answers are.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recipes import ROOT, Recipe, names

RUNS = ROOT / "build" / "recipes"
CORES = 2  # that stated minutes are of


class Reached(NamedTuple):
    """What a run came to.

    Attributes:
        best: the lowest validation loss.
        share: of the parameters that was trained.
        last: the last evaluation.
    """

    run: Path
    best: float
    share: float
    last: dict[str, Any]
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        time = f"{self.seconds / 60:.1f} minutes ({self.cpu_seconds:.0f} s of processors)"
        return f"validation loss {self.best:.3g} in {time}"


def train(recipe: Recipe, name: str, *settings: str) -> Reached:
    """Run a recipe in a new folder."""
    folder = RUNS / name
    shutil.rmtree(folder, ignore_errors=True)
    run = folder / "run"
    sets = [part for setting in ("logging.log_level=WARNING", *settings) for part in ("--set", setting)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    recipe.run("--checkpoint-dir", str(run), *sets, variables={"XDG_CACHE_HOME": str(folder / "cache")})
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first = next(record for record in records if record["event"] == "run")
    evaluations = [record for record in records if record["event"] == "epoch"]
    return Reached(
        run=run,
        best=min(record["validation_loss"] for record in evaluations),
        share=first["trainable"] / first["parameters"],
        last=evaluations[-1],
        seconds=seconds,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


Claims = Iterator[tuple[str, bool]]
ALL_PARAMETERS = "lora.rank=0", "lora.base_dtype=float32", "training.lr=3e-4"  # in place of configs/lora.yaml's


def claims_of_full(reached: Reached) -> Claims:
    before, after = score("llm_jax/demo"), score(reached.run)
    yield f"answers as it was taught: {before:.0%} of 50 before, {after:.0%} after", before == 0 and after > 0.9


def claims_of_lora(reached: Reached) -> Claims:
    after = score(reached.run)
    yield f"{after:.0%} of 50 answers are right", after >= 0.8
    full = train(Recipe.read("lora"), "lora-full", *ALL_PARAMETERS)
    close = reached.best <= 1.05 * full.best and reached.share < 0.05
    yield f"by {reached.share:.1%} of the parameters {reached.best:.4g}; by all of them: {full}", close


def claims_of_dpo(reached: Reached) -> Claims:
    yield from _preferred("dpo", reached)
    yield from _preferred("orpo", train(Recipe.read("dpo"), "orpo", "preference.loss=orpo"))


def _preferred(loss: str, reached: Reached) -> Claims:
    margin, accuracy = reached.last["validation_margin"], reached.last["validation_accuracy"]
    yield f"{loss}: {accuracy:.0%} of held-out pairs, margin {margin:.2f}, {reached}", margin > 0 and accuracy >= 0.95


CLAIMS: dict[str, Callable[[Reached], Claims]] = {"full": claims_of_full, "lora": claims_of_lora, "dpo": claims_of_dpo}


def score(model: Path | str) -> float:
    """The share of 50 held-out orders that a model answers to the letter."""
    command = [sys.executable, "scripts/make_conversations.py", "--score", str(model), "--count", "50", "--seed", "1"]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(said.split("%")[0]) / 100


def check(recipe: Recipe, *, busy: bool) -> bool:
    """Run a recipe and say what it reached."""
    assert recipe.loss is not None
    assert recipe.minutes is not None
    reached = train(recipe, recipe.name)
    minutes = (reached.cpu_seconds / CORES if busy else reached.seconds) / 60
    stated = f"{recipe.name}: {reached}; stated: {recipe.loss} in {recipe.minutes:g} minutes"
    found = [(stated, reached.best <= recipe.loss and minutes <= recipe.minutes)]
    print(_line(*found[0]), flush=True)
    for claim in CLAIMS[recipe.name](reached) if recipe.name in CLAIMS else ():
        found.append(claim)
        print(_line(*claim), flush=True)
    return all(ok for _, ok in found)


def _line(what: str, ok: bool) -> str:
    return f"{'ok    ' if ok else 'FAILED'} {what}"


def main() -> None:
    known = {name: Recipe.read(name) for name in names()}
    possible = [name for name, recipe in known.items() if recipe.loss is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(possible)}; default: all")
    parser.add_argument("--busy", action="store_true", help="count the processors' time, divided by two")
    options = parser.parse_args()
    for name in options.recipes:
        if name not in possible:
            parser.error(f"{name!r} is none of the recipes that state what they reach: {', '.join(possible)}")
    failed = [name for name in options.recipes or possible if not check(known[name], busy=options.busy)]
    for name in [] if options.recipes else set(known) - set(possible):
        print(f"-      {name}: not run, it is not for two cores")
    if failed:
        sys.exit(f"Not as stated: {', '.join(failed)}")


if __name__ == "__main__":
    main()
