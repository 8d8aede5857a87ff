"""`llm-prepare`: what `llm-train` does with data before its first step."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import _options
from cli._errors import Command
from llm_jax.memory import uncollected

if TYPE_CHECKING:
    from llm_jax.training import TaskName

TASKS = ("lm", "sft", "dpo", "distill")


@click.command("llm-prepare", cls=Command)
@click.option("--task", "task", type=click.Choice(TASKS), help="What is to be learnt from the data.")
@click.option("--config-path", type=Path, help="YAML file with the sections model, data, training, …")
@click.option("--init-from", help="Model to start from, whose tokenizer and chat template are used.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="Any other setting; repeatable.")
@click.option("--list", "lists", is_flag=True, help="Show the tokens that are stored, and prepare nothing.")
@click.option("--clear", "clears", is_flag=True, help="Remove all stored tokens that no running process uses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@_options.version
def main(
    task: TaskName | None,
    config_path: Path | None,
    init_from: str | None,
    settings: tuple[str, ...],
    lists: bool,
    clears: bool,
    as_json: bool,
) -> None:
    """Check and tokenise the data of a training run, and say what there is to learn from.

    \b
      llm-prepare --task lm --config-path configs/example.yaml
      llm-prepare --task sft --init-from MODEL --set data.dataset_path=talks.jsonl
      llm-prepare --list

    Settings are those of llm-train, which finds the tokens in data.cache_dir and begins at once. Without this command
    it makes them itself.
    """
    with uncollected():
        from llm_jax.training import TASKS as BUILDERS
        from llm_jax.training import Setting, load_train_config

    overrides = [Setting.parse(text, "--set") for text in settings]
    if init_from is not None:
        overrides.append(Setting("model", "init_from", init_from, "--init-from"))
    config = load_train_config(config_path, overrides=overrides)
    cache = _cache(config.data.cache_dir)
    if lists or clears:
        _show_stored(cache, as_json, clears)
        return
    if task is None:
        raise click.UsageError("Missing option '--task': what is to be learnt from the data? (Or --list, or --clear.)")
    built = BUILDERS[task](config, None)
    found = {"training": built.train, "held-out": built.validation, **built.validations}
    rows = {name: _describe(source) for name, source in found.items() if source is not None}
    if as_json:
        click.echo(json.dumps({"cache": str(cache), "sources": rows}))
        return
    for name, row in rows.items():
        click.echo(f"{name:<12}  " + ", ".join(f"{value:,} {what}" for what, value in row.items()))
    click.echo(f"The tokens are in {cache}.")
    for note in built.notes:
        click.echo(note, err=True)


def _describe(source: Any) -> dict[str, Any]:
    from llm_jax.data import Mixture

    if isinstance(source, Mixture):
        parts = [_describe(part) for part in source.sources]
        return {what: sum(part[what] for part in parts) for what in parts[0]}
    return {"sequences": len(source.sequences), "tokens": len(source.sequences.stream), "rows": len(source)} | (
        {"left out": source.left_out} if hasattr(source, "left_out") else {}
    )


def _show_stored(cache: Path, as_json: bool, clears: bool) -> None:
    """The shards in a folder; with `clears` only after those are removed that are not in use."""
    from llm_jax.data import remove_shards, stored_shards

    removed = remove_shards(cache, 0.0) if clears else []
    shards = stored_shards(cache)
    if as_json:
        rows = [vars(shard) | {"path": str(shard.path)} for shard in shards]
        click.echo(json.dumps({"cache": str(cache), "removed": [str(shard.path) for shard in removed], "shards": rows}))
        return
    for shard in shards:
        used = datetime.fromtimestamp(shard.used).strftime("%Y-%m-%d %H:%M")
        what = f"{shard.nbytes / 1e6:10,.1f} MB  {shard.tokens:14,} tokens  {shard.form:<11}  {used}"
        files = ", ".join(shard.files[:2]) + (f" and {len(shard.files) - 2} more" if len(shard.files) > 2 else "")
        click.echo(f"{what}  {files}{'  (in use)' if shard.in_use else ''}")
    if clears:
        click.echo(f"{len(removed)} removed, {sum(shard.nbytes for shard in removed) / 1e6:,.1f} MB")
    click.echo(f"{len(shards)} in {cache}, {sum(shard.nbytes for shard in shards) / 1e6:,.1f} MB")


def _cache(directory: str | None) -> Path:
    from llm_jax.data import cache_directory

    return cache_directory() if directory is None else Path(directory)


if __name__ == "__main__":
    main()
