"""The strict loader of a `TrainConfig` from a YAML file, the environment and the command line.

A later source wins: file, then environment (`LLM_SECTION__FIELD`), then command line. An unknown section or field is an
error that names its origin and the nearest one that exists.
"""

import contextlib
import dataclasses
import os
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, nearest
from llm_jax.training.config.schema import TrainConfig

SECTIONS: dict[str, type[Any]] = {
    name: hint
    for name, hint in typing.get_type_hints(TrainConfig).items()
    if isinstance(hint, type) and dataclasses.is_dataclass(hint)
}
NEAR = 0.6  # how similar a name must be to be suggested, see `nearest`
PATHS = ("init_from", "teacher", "resume_from_checkpoint", "chat_template")  # besides those that end in _path and _dir
ARCHITECTURE = [f.name for f in dataclasses.fields(ModelConfig)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One value that is set, `section.field = value`, and its origin: a line of a file, a variable or a flag."""

    section: str
    field: str
    value: Any
    origin: str

    @classmethod
    def parse(cls, text: str, origin: str) -> "Setting":
        """`section.field=value`, as given to `--set`.

        Raises:
            ConfigError: the text has another form.
        """
        name, equals, value = text.partition("=")
        section, dot, field = name.strip().partition(".")
        if not (equals and dot and section and field):
            raise ConfigError(f"{origin} {text}: write section.field=value, for example training.lr=0.0003.")
        return cls(section, field, value.strip(), origin)


def load_train_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Iterable[Setting] = (),
) -> TrainConfig:
    """Read every source and build the configuration.

    Raises:
        ConfigError: the file is missing or is not YAML; a section, field, type or value is not allowed.
    """
    settings = [*(_read_yaml(Path(path)) if path is not None else ()), *_read_environment(environ), *overrides]
    chosen: dict[str, dict[str, Setting]] = {name: {} for name in SECTIONS}
    for setting in settings:
        _check_section(setting.section, setting.origin)
        _check_field(SECTIONS[setting.section], setting)
        chosen[setting.section][setting.field] = setting
    sections = {name: _build(name, cls, chosen[name]) for name, cls in SECTIONS.items()}
    counted = {"vocab_size"} if sections["model"].init_from is None else set(ARCHITECTURE)
    return TrainConfig(**sections, model_given=frozenset(counted & chosen["model"].keys()))


def write_config(config: TrainConfig, path: str | os.PathLike[str]) -> None:
    """A YAML file with every field, which `load_train_config` reads back to an equal configuration."""
    import yaml

    sections = {name: dataclasses.asdict(getattr(config, name)) for name in SECTIONS}
    model, derived = sections["model"], ({"vocab_size"} if config.model.init_from is None else set(ARCHITECTURE))
    sections["model"] = {name: model[name] for name in model if name not in derived - config.model_given}
    sections = {name: _without_tuples(section) for name, section in sections.items()}
    Path(path).write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")


def _without_tuples(section: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in section.items()}


def _read_yaml(path: Path) -> list[Setting]:
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or error}).") from None
    if root is None:
        return []

    values = yaml.SafeLoader("")

    def pairs(node: yaml.Node, what: str) -> list[tuple[str, yaml.Node, str]]:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}, line {node.start_mark.line + 1}: {what} must hold `name: value` lines.")
        found: dict[str, tuple[str, yaml.Node, str]] = {}
        for key, value in node.value:
            name, origin = str(key.value), f"{path}, line {key.start_mark.line + 1}"
            if name in found:
                raise ConfigError(f"{origin}: {name} is given twice in {what}; keep one.")
            found[name] = name, value, origin
        return list(found.values())

    settings = []
    for section, body, origin in pairs(root, "the file"):
        _check_section(section, origin)
        if body.tag == "tag:yaml.org,2002:null":  # a section with every line commented out
            continue
        for field, value, origin in pairs(body, f"section {section}"):
            settings.append(Setting(section, field, values.construct_object(value, deep=True), origin))
    return settings


def _read_environment(environ: Mapping[str, str]) -> list[Setting]:
    settings = []
    for name, value in sorted(environ.items()):
        section, separator, field = name.removeprefix("LLM_").partition("__")
        # LLM_SERVING_… belongs to the server.
        if name.startswith("LLM_") and separator and not name.startswith("LLM_SERVING_"):
            settings.append(Setting(section.lower(), field.lower(), value, f"environment variable {name}"))
    return settings


def _check_section(section: str, origin: str) -> None:
    if section not in SECTIONS:
        near = nearest(section, SECTIONS, cutoff=NEAR)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"{origin}: there is no section {section!r}.{hint} The sections are {', '.join(SECTIONS)}.")


def _check_field(cls: type[Any], setting: Setting) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    if setting.field in known:
        return
    elsewhere = [name for name, other in SECTIONS.items() if setting.field in other.__dataclass_fields__]
    section, field = (
        (elsewhere[0], setting.field) if elsewhere else (setting.section, nearest(setting.field, known, NEAR))
    )
    hint = f"Did you mean {section}.{field}?" if field else f"It has {', '.join(known)}."
    raise ConfigError(f"{setting.origin}: section {setting.section} has no field {setting.field!r}. {hint}")


def _build(section: str, cls: type[Any], settings: Mapping[str, Setting]) -> Any:
    """An instance of a section; an error of its own checks gains the origin of the value."""
    hints = typing.get_type_hints(cls)
    values = {name: _coerce(hints[name], setting) for name, setting in settings.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        setting = settings.get(error.field or "")
        raise ConfigError(f"{setting.origin + ': ' if setting else ''}{section}.{error}", error.field) from None


def _coerce(hint: Any, setting: Setting) -> Any:
    """The value as the field's type. Text, from the environment and flags, is read as YAML for other types."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    options = _options(hint)
    candidates = [setting.value]
    if isinstance(setting.value, str):
        if type(None) in options and setting.value.strip().lower() in ("", "null", "none"):
            return None
        with contextlib.suppress(yaml.YAMLError):
            read = yaml.safe_load(setting.value)
            candidates = [read, *candidates] if isinstance(read, list | dict) else [*candidates, read]
    for candidate in candidates:
        nested = next(
            (option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None
        )
        if nested and isinstance(candidate, dict):
            return _build_nested(nested, candidate, setting)
        if isinstance(candidate, bool) and bool not in options:  # pydantic would make it 0 or 1
            continue
        with contextlib.suppress(ValidationError):
            return _expanded(setting.field, TypeAdapter(hint).validate_python(candidate))
    name, allowed = f"{setting.section}.{setting.field}", " or ".join(map(_describe, options))
    raise ConfigError(f"{setting.origin}: {name} is {setting.value!r}; it must be {allowed}.", setting.field)


def _expanded(field: str, value: Any) -> Any:
    """A path, or a list of them, with ~ replaced by the home directory; other fields' values as they are."""
    if not (field.endswith(("_path", "_dir")) or field in PATHS):
        return value
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, dict):
        return {os.path.expanduser(name): weight for name, weight in value.items()}
    return tuple(map(os.path.expanduser, value)) if isinstance(value, tuple) else value


def _build_nested(cls: type[Any], values: dict[str, Any], parent: Setting) -> Any:
    section = f"{parent.section}.{parent.field}"
    settings = {str(name): Setting(section, str(name), value, parent.origin) for name, value in values.items()}
    for setting in settings.values():
        _check_field(cls, setting)
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in settings]
    if missing:
        raise ConfigError(f"{parent.origin}: {section} needs {', '.join(missing)}.", parent.field)
    return _build(section, cls, settings)


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have: int | None gives (int, NoneType)."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _describe(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return "one of " + ", ".join(typing.get_args(option))
    if typing.get_origin(option) in (tuple, dict):
        return "a list" if typing.get_origin(option) is tuple else "a mapping"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(option, "a section of its own")
