"""`llm-serve`: parse the flags, build the settings, run the server."""

import dataclasses
import os
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from cli import _options
from cli._errors import Command
from server import Settings, flag_name, load_settings, serve, setting_names, variable_name


class GroupedCommand(Command):
    """A command whose help lists its options under the group of their setting."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SettingOption(click.Option):
    """The flag of one setting. It has no default of its own, so that a variable counts where no flag is given."""

    def __init__(self, field: dataclasses.Field[Any], hint: Any) -> None:
        flags = [flag_name(name) for name in setting_names(field)]
        is_switch = hint is bool
        default = {"True": "on", "False": "off", "None": "unset", "()": "unset"}.get(str(field.default), field.default)
        super().__init__(
            [f"{flag}/--no-{flag[2:]}" if is_switch else flag for flag in flags],
            default=None,
            multiple=hint == tuple[str, ...],
            metavar=None if is_switch else _metavar(hint),
            help=f"{field.metadata['help']} [{variable_name(field.name)}; default {default}]",
        )
        self.group = field.metadata["group"]


def _metavar(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):  # with None
        hint = get_args(hint)[0]
    if hint == tuple[str, ...]:
        return "TEXT"
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    return {str: "TEXT", int: "NUMBER", float: "SECONDS"}[hint]


def _setting_options() -> list[click.Parameter]:
    hints = get_type_hints(Settings)
    return [SettingOption(field, hints[field.name]) for field in dataclasses.fields(Settings)]


def _serve(**flags: Any) -> None:
    """Serve a model over HTTP, with OpenAI's API under /v1 and a plain one at /generate.

    Every setting is a flag and an environment variable; the flag wins.
    """
    serve(load_settings(os.environ, flags))


main = _options.version(GroupedCommand("llm-serve", callback=_serve, params=_setting_options(), help=_serve.__doc__))

if __name__ == "__main__":
    main()
