"""`llm-serve`: parse the flags, build the settings, run the server."""

import dataclasses
import os
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from cli._errors import Command
from llm_jax import __version__
from server.settings import PREFIX, Settings, load_settings


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
    """The flag of one setting. It has no default of its own: the environment stands behind it."""

    def __init__(self, field: dataclasses.Field[Any], hint: Any) -> None:
        flag = "--" + field.name.replace("_", "-")
        is_switch = hint is bool
        default = {"True": "on", "False": "off", "None": "unset"}.get(str(field.default), field.default)
        super().__init__(
            [f"{flag}/--no-{flag[2:]}" if is_switch else flag],
            default=None,
            metavar=None if is_switch else _metavar(hint),
            help=f"{field.metadata['help']} [{PREFIX}{field.name.upper()}; default {default}]",
        )
        self.group = field.metadata["group"]


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    kinds = {str: "TEXT", int: "NUMBER", float: "SECONDS"}
    return next(name for kind, name in kinds.items() if kind is hint or kind.__name__ in str(hint))


def _options() -> list[click.Parameter]:
    hints = get_type_hints(Settings)
    return [SettingOption(field, hints[field.name]) for field in dataclasses.fields(Settings)]


def _serve(**flags: Any) -> None:
    """Serve a model over HTTP, with OpenAI's API under /v1 and a plain one at /generate.

    Every setting is a flag and an environment variable; the flag wins.
    """
    settings = load_settings(os.environ, flags)
    from server.process import serve

    serve(settings)


main = click.version_option(__version__, prog_name="llm-serve")(
    GroupedCommand("llm-serve", callback=_serve, params=_options(), help=_serve.__doc__)
)

if __name__ == "__main__":
    main()
