"""`llm-generate`: continue a text on the terminal, or talk."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import _options
from cli._errors import Command
from llm_jax.memory import uncollected

if TYPE_CHECKING:
    from llm_jax.inference import TextPiece
    from llm_jax.model import ModelDtype


@click.command("llm-generate", cls=Command)
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "prompt_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Prompt file; - is standard input.",
)
@_options.model
@click.option("--adapter", help="LoRA adapter of the model: a directory of PEFT's or a run, or a name on the Hub.")
@_options.dtype
@click.option("--max-new-tokens", type=int, default=50, show_default=True, help="Tokens to generate at most.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 always takes the likeliest token.")
@click.option("--top-k", type=int, help="Choose among the k likeliest tokens.")
@click.option("--top-p", type=float, help="Choose among the likeliest tokens that together have probability p.")
@click.option("--min-p", type=float, help="Choose among tokens at least min-p times as likely as the likeliest.")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1 avoids seen tokens.")
@click.option("--presence-penalty", type=float, default=0.0, show_default=True, help="-2 to 2; once per token used.")
@click.option(
    "--frequency-penalty", type=float, default=0.0, show_default=True, help="-2 to 2; for each use of a token."
)
@click.option("--stop", multiple=True, help="Text to stop before; may be given several times.")
@_options.add_special_tokens
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of a stream.")
@click.option("--chat", is_flag=True, help="Answer PROMPT by the model's chat format; without one, talk in turns.")
@click.option("--system", help="With --chat: what the model should keep in mind throughout.")
@_options.version
def main(
    prompt: str | None,
    prompt_file: Path | None,
    model: str | None,
    adapter: str | None,
    dtype: "ModelDtype",
    stop: tuple[str, ...],
    add_special_tokens: bool,
    as_json: bool,
    chat: bool,
    system: str | None,
    **sampling: Any,
) -> None:
    """Continue PROMPT: print it, then what the model writes, as it writes it.

    Without PROMPT, the text of --file or of standard input is continued (less one newline at its end). With --chat it
    is answered instead, and on a terminal without PROMPT a conversation begins.
    """
    interactive = prompt is None and prompt_file is None and sys.stdin.isatty()
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("Give a PROMPT or --file, not both.")
    if interactive and not chat:
        raise click.UsageError("Give a PROMPT, --file, or text on standard input.")
    if interactive and as_json:
        raise click.UsageError("--json prints one answer; give a PROMPT, --file, or text on standard input.")
    if system is not None and not chat:
        raise click.UsageError("--system is for conversations; add --chat.")

    with uncollected():
        from cli._chat import talk
        from cli._text import read_text
        from llm_jax.hub import load_with_tokenizer
        from llm_jax.inference import Conversation, SamplingParams, continue_prompts
        from llm_jax.model import cast_model, weight_types

    if prompt is None and not interactive:
        prompt = read_text(prompt_file or Path("-")).removesuffix("\n")
    loaded, tokenizer = load_with_tokenizer(model, adapter=adapter)
    click.echo(f"Weights: {weight_types(cast_model(loaded.model, dtype)[0])}.", err=True)
    settings = SamplingParams(stop_ids=loaded.generation.eos_ids, **sampling)
    conversation = Conversation(loaded.model, tokenizer, settings, system=system, stop=stop, dtype=dtype)
    if prompt is None:
        talk(conversation)
    elif chat:
        _print(conversation.answer(prompt), "", as_json)
    else:
        stream = continue_prompts(
            loaded.model, tokenizer, [prompt], settings, stop=stop, add_special_tokens=add_special_tokens, dtype=dtype
        )
        _print((piece for _, piece in stream), prompt, as_json)


def _print(pieces: "Iterable[TextPiece]", text: str, as_json: bool) -> None:
    """The text that is there, and each piece as it comes; or one JSON object when all have come."""
    token_count, finish_reason = 0, None
    if not as_json:
        click.echo(text, nl=False)
    for piece in pieces:
        text += piece.text
        token_count += len(piece.tokens)
        finish_reason = piece.finish_reason
        if not as_json:
            click.echo(piece.text, nl=False)
    if as_json:
        answer = {"generated_text": text, "token_count": token_count, "finish_reason": finish_reason}
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        click.echo()
