"""`llm-prepare`: what `llm-train` does with data before its first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import _options
from cli._errors import Command

if TYPE_CHECKING:
    from llm_jax.training import TaskName

TASKS = ("lm", "sft", "dpo", "distill")


@click.command("llm-prepare", cls=Command)
@click.option("--task", "task", type=click.Choice(TASKS), required=True, help="What is to be learnt from the data.")
@click.option("--config-path", type=Path, help="YAML file with the sections model, data, training, …")
@click.option("--init-from", help="Model to start from, whose tokenizer and chat template are used.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="Any other setting; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@_options.version
def main(
    task: TaskName, config_path: Path | None, init_from: str | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Check and tokenise the data of a training run, and say what there is to learn from.

    \b
      llm-prepare --task lm --config-path configs/example.yaml
      llm-prepare --task sft --init-from MODEL --set data.dataset_path=talks.jsonl

    Settings are those of llm-train, which finds the tokens in data.cache_dir and begins at once. Without this command
    it makes them itself.
    """
    from llm_jax.training import TASKS as BUILDERS
    from llm_jax.training import Setting, load_train_config

    overrides = [Setting.parse(text, "--set") for text in settings]
    if init_from is not None:
        overrides.append(Setting("model", "init_from", init_from, "--init-from"))
    config = load_train_config(config_path, overrides=overrides)
    built = BUILDERS[task](config, None)
    found = {"training": built.train, "held-out": built.validation, **built.validations}
    rows = {name: _describe(source) for name, source in found.items() if source is not None}
    if as_json:
        click.echo(json.dumps({"cache": str(_cache(config.data.cache_dir)), "sources": rows}))
        return
    for name, row in rows.items():
        click.echo(f"{name:<12}  " + ", ".join(f"{value:,} {what}" for what, value in row.items()))
    click.echo(f"The tokens are in {_cache(config.data.cache_dir)}.")
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


def _cache(directory: str | None) -> Path:
    from llm_jax.data import cache_directory

    return cache_directory() if directory is None else Path(directory)


if __name__ == "__main__":
    main()
