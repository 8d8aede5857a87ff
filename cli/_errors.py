"""A person's mistake reaches the terminal as one clear message and exit code 2, never as a traceback."""

import warnings
from typing import Any, TextIO

import click

from llm_jax.errors import LLMError, LLMWarning


class Command(click.Command):
    """A command whose mendable errors are printed like click's own usage errors.

    Use it as `@click.command(cls=Command)`. Whatever is neither an LLMError nor a refusal of the operating system
    (a missing file, a full disk, a port that is taken) is a bug and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning  # type: ignore[assignment]
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone (`llm-generate … | head`); click ends quietly
            raise
        except (LLMError, OSError) as error:
            raise _Mistake(str(error)) from error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, LLMWarning):
        click.echo(f"Note: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno), err=True, nl=False)


class _Mistake(click.ClickException):
    exit_code = 2
