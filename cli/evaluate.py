"""`llm-eval`: how well a model predicts a text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import _options
from cli._errors import Command

if TYPE_CHECKING:
    from llm_jax.model import ModelDtype


@click.command("llm-eval", cls=Command)
@click.argument("text_file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@_options.model
@click.option("--window", type=int, help="Tokens that the model sees at once. [default: its context]")
@click.option("--stride", type=int, help="Tokens from one window to the next. [default: half a window]")
@_options.add_special_tokens
@_options.dtype
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@_options.version
def main(
    text_file: Path,
    model: str | None,
    window: int | None,
    stride: int | None,
    add_special_tokens: bool,
    dtype: "ModelDtype",
    as_json: bool,
) -> None:
    """Measure how well a model predicts TEXT_FILE (UTF-8; - is standard input).

    Perplexity, bits per token and bits per byte (comparable between tokenizers), and the accuracy: the fraction of next
    tokens that the model predicts.
    """
    from cli._text import read_text
    from llm_jax.evaluation import evaluate_text
    from llm_jax.hub import load_with_tokenizer

    loaded, tokenizer = load_with_tokenizer(model)
    score = evaluate_text(
        loaded.model,
        tokenizer,
        read_text(text_file),
        window=window,
        stride=stride,
        add_special_tokens=add_special_tokens,
        dtype=dtype,
    )
    rows = {
        "model": str(loaded.path),
        "text": str(text_file),
        "tokens": score.tokens,
        "bytes": score.bytes,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_token": score.bits_per_token,
        "bits_per_byte": score.bits_per_byte,
        "accuracy": score.accuracy,
    }
    if as_json:
        click.echo(json.dumps(rows))
    else:
        width = max(map(len, rows))
        for name, value in rows.items():
            click.echo(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
