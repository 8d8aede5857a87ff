"""Options that several commands have."""

from importlib.metadata import version as version_of

import click

from llm_jax import __version__, native
from llm_jax.errors import ConfigError

model = click.option("--model", help="Model to use: a directory, a run, a file, a name on the Hub.  [default: demo]")
dtype = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "float32", "bfloat16", "int8", "int4")),
    help="Weight dtype; fewer bits are faster. auto: the file's own precision on a CPU, bfloat16 on a GPU.",
)
add_special_tokens = click.option(
    "--add-special-tokens/--no-add-special-tokens",
    default=True,
    help="Surround a raw text with the special tokens that the tokenizer adds, such as a BOS.  [default: yes]",
)


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    try:
        kernels = native.status()
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    why = "" if kernels.reason is None else f" ({kernels.reason})"
    click.echo(f"{context.command.name}, version {__version__}")
    click.echo(f"kernels {kernels.level.name.lower()}{why}, jax {version_of('jax')}")
    context.exit()


version = click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version, the kernels that run on this processor, and exit.",
)
