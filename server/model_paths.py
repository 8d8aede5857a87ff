"""Which models and adapters the settings name: NAME=PATH, and NAME=PATH@MODEL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_jax.errors import ConfigError


class AdapterPath(NamedTuple):
    """Where an adapter is, and the name of its model."""

    path: str
    model: str


def model_paths(values: Sequence[str], lone_name: str) -> dict[str, str | None]:
    """The models by name, the demo model's path being None.

    Raises:
        ConfigError: one of several has no name, or two have the same.
    """
    named: dict[str, str | None] = {}
    for value in values or ("",):
        name, path = _named(value) or (lone_name, value or None)
        if len(values) > 1 and _named(value) is None:
            raise ConfigError(f"--model is {value!r}, one of several, and needs a name: NAME={value}.")
        if name in named:
            raise ConfigError(f"--model names two models {name!r}; give each a name of its own.")
        named[name] = path
    return named


def adapter_paths(values: Sequence[str], models: Mapping[str, str | None]) -> dict[str, AdapterPath]:
    """The adapters by name.

    Raises:
        ConfigError: one has no name, or another's, or does not say which of several models it is for.
    """
    named: dict[str, AdapterPath] = {}
    for value in values:
        found = _named(value)
        if found is None:
            raise ConfigError(f"--adapter is {value!r}; it must be NAME=PATH, or NAME=PATH@MODEL.")
        name, path = found
        if name in named or name in models:
            raise ConfigError(f"--adapter is {value!r}, and {name!r} names something else too; choose another name.")
        before, _, model = path.rpartition("@")
        if before and model in models:
            named[name] = AdapterPath(before, model)
        elif len(models) == 1:
            named[name] = AdapterPath(path, next(iter(models)))
        else:
            known = ", ".join(models)
            raise ConfigError(f"--adapter is {value!r}; write behind its path which model it is for: @ and {known}.")
    return named


def _named(value: str) -> tuple[str, str] | None:
    """The name and the path of NAME=PATH; None for a path alone."""
    name, is_named, path = value.partition("=")
    return (name, path) if is_named and name and path and not Path(value).exists() else None
