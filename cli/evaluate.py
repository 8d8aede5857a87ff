"""`llm-eval`: how well a model predicts texts, and does tasks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import _options
from cli._errors import Command
from llm_jax.memory import uncollected

if TYPE_CHECKING:
    from llm_jax.model import ModelDtype


@click.command("llm-eval", cls=Command)
@click.argument(
    "text_files",
    nargs=-1,
    metavar="[TEXT_FILE]...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@_options.model
@click.option("--window", type=int, help="Tokens that the model sees at once. [default: its context]")
@click.option("--stride", type=int, help="Tokens from one window to the next. [default: half a window]")
@click.option("--tasks", help="Tasks of lm-evaluation-harness, with commas between them.")
@click.option(
    "--tasks-path", type=click.Path(exists=True, file_okay=False), help="Directory of tasks of your own (YAML)."
)
@click.option("--num-fewshot", type=int, help="Examples before each question of a task. [default: the task's]")
@click.option("--limit", type=int, help="The most questions of each task.")
@click.option("--chat", is_flag=True, help="Ask the questions of tasks by the model's chat template.")
@_options.add_special_tokens
@_options.dtype
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each text, and for each task.")
@_options.version
def main(
    text_files: tuple[Path, ...],
    model: str | None,
    window: int | None,
    stride: int | None,
    tasks: str | None,
    tasks_path: str | None,
    num_fewshot: int | None,
    limit: int | None,
    chat: bool,
    add_special_tokens: bool,
    dtype: "ModelDtype",
    as_json: bool,
) -> None:
    """Measure how well a model predicts texts (UTF-8; - is standard input), and how well it does tasks.

    Of a text: perplexity, bits per token and bits per byte (comparable between tokenizers), and the accuracy: the
    fraction of next tokens that the model predicts. Of a task: its metrics, by lm-evaluation-harness, which the extra
    lm-eval brings.

    \b
      llm-eval --model checkpoints data/dummy_corpus.txt
      llm-eval --model checkpoints --tasks hellaswag,arc_easy --limit 100
    """
    with uncollected():
        from cli._text import read_text
        from llm_jax.evaluation import evaluate_tasks, evaluate_text
        from llm_jax.hub import load_with_tokenizer

    if not text_files and tasks is None:
        raise click.UsageError("Name a text file, or tasks with --tasks.")
    loaded, tokenizer = load_with_tokenizer(model)
    for text_file in text_files:
        score = evaluate_text(
            loaded.model,
            tokenizer,
            read_text(text_file),
            window=window,
            stride=stride,
            add_special_tokens=add_special_tokens,
            dtype=dtype,
        )
        _print(
            {
                "model": str(loaded.path),
                "text": str(text_file),
                "tokens": score.tokens,
                "bytes": score.bytes,
                "loss": score.loss,
                "perplexity": score.perplexity,
                "bits_per_token": score.bits_per_token,
                "bits_per_byte": score.bits_per_byte,
                "accuracy": score.accuracy,
            },
            as_json,
        )
    if tasks is not None:
        found = evaluate_tasks(
            loaded.model,
            tokenizer,
            [name.strip() for name in tasks.split(",") if name.strip()],
            path=tasks_path,
            num_fewshot=num_fewshot,
            limit=limit,
            use_chat_template=chat,
            dtype=dtype,
        )
        for name, metrics in found.items():
            _print({"model": str(loaded.path), "task": name, **metrics}, as_json)


def _print(rows: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
