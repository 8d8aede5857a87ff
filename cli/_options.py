"""Options that several commands have."""

import click

dtype = click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(("float32", "bfloat16", "int8")),
    help="What to keep the weights in; fewer bits are faster.",
)  # fmt: skip
