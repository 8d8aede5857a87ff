"""`llm-convert`: a model from one form into another."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import _options
from cli._errors import Command
from llm_jax.memory import uncollected

if TYPE_CHECKING:
    import numpy as np

    from llm_jax.checkpoint import Layout, StoredModel


@click.command("llm-convert", cls=Command)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "q8_0", "q6_k", "q4_k_m", "q4_0"]),
    help="Weight dtype of DESTINATION; those with q for GGUF only.  [default: as stored]",
)
@click.option(
    "--imatrix",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Text (UTF-8; - is standard input) on which a file of 4 or 6 bits must be most exact: the larger an input of "
    "a matrix is on it, the less its weights are rounded.",
)
@click.option(
    "--adapter", help="LoRA adapter (PEFT's files) to merge into the weights: a directory, a run, a Hub name."
)
@click.option(
    "--layout",
    type=click.Choice(["transformers", "documented", "torch"]),
    default="transformers",
    show_default=True,
    help="Names of a model directory: those that transformers knows (where it has the architecture), the documented "
    "ones, or the documented ones in a torch file.",
)
@click.option(
    "--shard-size",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    metavar="GB",
    help="Cut the weights into files of at most this size.",
)
@click.option("--force", is_flag=True, help="Replace DESTINATION if it exists.")
@_options.version
def main(
    source: str,
    destination: Path,
    dtype: str | None,
    imatrix: Path | None,
    adapter: str | None,
    layout: "Layout",
    shard_size: float,
    force: bool,
) -> None:
    """Turn SOURCE into DESTINATION.

    SOURCE is whatever can be loaded: a model directory (ours or Hugging Face's), a training run, a torch file with
    its model.json beside it, a GGUF file, a name on the Hub; of an adapter, its base with the adapter merged into it.
    DESTINATION becomes a GGUF file for llama.cpp where its name ends in .gguf, and else a model directory: config.json,
    model.safetensors, tokenizer.json. It appears when it is complete.
    """
    if destination.exists() and not force:
        raise click.UsageError(f"{destination} exists already; choose another name, or replace it with --force.")
    if imatrix is not None and dtype not in ("q6_k", "q4_k_m", "q4_0"):
        raise click.UsageError("--imatrix is for --dtype q6_k, q4_k_m and q4_0.")

    with uncollected():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from llm_jax.checkpoint import convert
        from llm_jax.hub import open_pretrained

    started = time.perf_counter()
    stored = open_pretrained(source, adapter)
    importance = None if imatrix is None else _importance(source, imatrix)
    total = sum(tensor.nbytes for tensor in stored.params.values())
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(destination.name, total=total)
        written = partial(progress.advance, task)
        convert(
            stored,
            destination,
            layout=layout,
            dtype=dtype,
            importance=importance,
            max_shard_bytes=int(shard_size * 1e9),
            written=written,
        )
    _summarise(stored, destination, dtype, time.perf_counter() - started)


def _importance(source: str, text: Path) -> "dict[str, np.ndarray]":
    from cli._text import read_text
    from llm_jax.evaluation import input_importance
    from llm_jax.hub import load_with_tokenizer

    loaded, tokenizer = load_with_tokenizer(source)
    return input_importance(loaded.model, tokenizer, read_text(text))


def _summarise(stored: "StoredModel", destination: Path, dtype: str | None, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from llm_jax.checkpoint import stored_dtype

    config, tensors = stored.config, stored.params.values()
    files = [file for file in destination.rglob("*") if file.is_file()] if destination.is_dir() else [destination]
    rows = {
        "from": str(stored.path),
        "to": str(destination),
        "shape": f"{config.num_layers} layers, hidden size {config.hidden_size}, context {config.max_seq_len}",
        "parameters": f"{sum(tensor.size for tensor in tensors):,}",
        "dtype": f"{', '.join(sorted({str(tensor.dtype) for tensor in tensors}))} -> {dtype or stored_dtype(stored)}",
        "tokenizer": "none" if stored.tokenizer is None else f"{stored.tokenizer.vocab_size:,} tokens",
        "size": f"{sum(file.stat().st_size for file in files):,} bytes in {len(files)} files",
        "time": f"{seconds:.1f} s",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
