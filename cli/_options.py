"""Options that several commands have."""

import click

model = click.option("--model", help="Model to use: a directory, a run, a file, a name on the Hub.  [default: demo]")
dtype = click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(("float32", "bfloat16", "int8")),
    help="Weight dtype; fewer bits are faster.",
)
add_special_tokens = click.option(
    "--add-special-tokens/--no-add-special-tokens",
    default=True,
    help="Surround a raw text with the special tokens that the tokenizer adds, such as a BOS.  [default: yes]",
)
