"""A conversation on the terminal."""

import sys

import click

from llm_jax.errors import LLMError
from llm_jax.inference import Conversation

HELP = 'End a line with \\ to go on in the next, or put """ around several. /clear forgets, Ctrl-D leaves.'


def talk(conversation: Conversation) -> None:
    """Reads messages and prints answers until the end of input. Ctrl-C breaks off an answer, or drops a line."""
    import readline  # noqa: F401 (line editing and history for input())

    click.secho(HELP, dim=True, err=True)
    while True:
        try:
            message = _read_message().strip()
            if message in ("/exit", "/quit"):
                return
            _answer(conversation, message)
        except KeyboardInterrupt:
            click.echo()
        except EOFError:
            click.echo()
            return
        except LLMError as error:
            click.secho(str(error), fg="red", err=True)


def _answer(conversation: Conversation, message: str) -> None:
    if message == "/clear":
        conversation.clear()
    elif message.startswith("/"):
        click.secho(HELP, dim=True, err=True)
    elif message:
        for piece in conversation.answer(message):
            click.echo(piece.text, nl=False)
        click.echo()


def _read_message() -> str:
    line = _read_line("> ")
    if line.startswith('"""'):
        lines = [line.removeprefix('"""')]
        while not lines[-1].endswith('"""'):
            lines.append(_read_line(". "))
        return "\n".join(lines).removesuffix('"""')
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(_read_line(". "))
    return "\n".join(lines)


def _read_line(prompt: str) -> str:
    sys.stdout.flush()
    return input(prompt)
