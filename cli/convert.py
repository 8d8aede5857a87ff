"""`llm-convert`: any checkpoint that can be loaded becomes a model directory."""

from pathlib import Path

import click

from cli._errors import Command
from llm_jax import __version__


@click.command(cls=Command)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="[default: as stored]")
@click.option("--force", is_flag=True, help="Replace DESTINATION if it exists.")
@click.version_option(__version__)
def main(source: Path, destination: Path, dtype: str | None, force: bool) -> None:
    """Turn SOURCE into the model directory DESTINATION.

    SOURCE is whatever can be loaded: a model directory, a training run, its training state, a torch file with its
    model.json beside it. DESTINATION is laid out as Hugging Face lays out a model: config.json, model.safetensors,
    tokenizer.json.
    """
    if destination.exists() and not force:
        raise click.UsageError(f"{destination} exists already; choose another name, or replace it with --force.")

    from llm_jax.checkpoint import load_model, save_model

    loaded = load_model(source, dtype=dtype)
    save_model(destination, loaded.model, loaded.tokenizer, loaded.generation)

    arrays = loaded.model.params.values()
    config = loaded.model.config
    rows = {
        "from": source,
        "to": destination,
        "shape": f"{config.num_layers} layers, hidden size {config.hidden_size}, context {config.max_seq_len}",
        "parameters": f"{sum(array.size for array in arrays):,}",
        "dtype": ", ".join(sorted({str(array.dtype) for array in arrays})),
        "tokenizer": "none" if loaded.tokenizer is None else f"{loaded.tokenizer.vocab_size:,} tokens",
        "size": f"{sum(file.stat().st_size for file in destination.rglob('*') if file.is_file()):,} bytes",
    }
    for name, value in rows.items():
        click.echo(f"{name:<10}  {value}")
