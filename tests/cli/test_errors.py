"""A mendable error is one message on stderr and exit code 2; a bug keeps its traceback."""

import click
import pytest
from click.testing import CliRunner

from cli._errors import Command
from llm_jax.errors import ConfigError


def command_that_raises(error: Exception) -> click.Command:
    @click.command(cls=Command)
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("error", [ConfigError("epochs is -1; it must be at least 1."), PermissionError("no entry")])
def test_a_mistake_is_told_in_one_line(error: Exception) -> None:
    result = CliRunner().invoke(command_that_raises(error), [])
    assert result.exit_code == 2
    assert result.stderr == f"Error: {error}\n"
    assert result.stdout == ""


def test_a_bug_is_not_hidden() -> None:
    result = CliRunner().invoke(command_that_raises(ZeroDivisionError("a bug")), [])
    assert isinstance(result.exception, ZeroDivisionError)
