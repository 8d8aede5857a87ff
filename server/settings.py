"""Every setting of the server: one dataclass, filled from `LLM_SERVING_*` variables and from flags.

Nothing heavy is imported here, so that `llm-serve --help` can list the settings at once.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval

from llm_jax.errors import ConfigError, nearest

PREFIX = "LLM_SERVING_"


def setting(default: Any, group: str, help: str, *, secret: bool = False) -> Any:
    return dataclasses.field(default=default, repr=not secret, metadata={"group": group, "help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told at its start. Times are seconds; an empty variable counts as unset."""

    model_path: str | None = setting(
        None, "Model", "Model directory, training run or torch checkpoint to serve. Unset: the bundled demo model."
    )
    served_model_name: str = setting("llm", "Model", "Name of the model in /v1/models and in answers.")
    device: Literal["auto", "cpu", "cuda", "gpu"] = setting("auto", "Model", "Where to compute.")
    dtype: Literal["float32", "bfloat16", "int8"] = setting("float32", "Model", "What weights are kept in.")
    kv_dtype: Literal["float32", "bfloat16", "int8"] | None = setting(
        None, "Model", "What keys and values are cached in. Unset: float32 with float32 weights, else bfloat16."
    )
    tensor_parallel: Annotated[int, Ge(1)] = setting(
        1, "Model", "Devices to spread the model over, where it is too large for one."
    )
    max_model_len: Annotated[int, Ge(2)] | None = setting(
        None, "Model", "Longest prompt and completion together, in tokens. Unset: what the model was trained for."
    )
    max_batch: Annotated[int, Ge(1)] = setting(8, "Model", "Requests that are generated at the same time.")
    prefix_cache: Annotated[int, Ge(0)] = setting(
        4096, "Model", "Tokens of prompts to keep, so that one which begins alike is not computed again; 0 keeps none."
    )
    speculate: bool = setting(True, "Model", "Guess ahead where a text repeats itself; what is generated is the same.")

    host: str = setting("127.0.0.1", "Network", "Address to listen on; 0.0.0.0 for every interface.")
    port: Annotated[int, Interval(ge=0, le=65535)] = setting(8000, "Network", "Port to listen on; 0 picks a free one.")
    cors_origins: str | None = setting(
        None, "Network", "Origins whose pages may call the server, separated by commas, or *."
    )

    api_key: str | None = setting(
        None, "Access", "Key that every request must bring; several are separated by commas.", secret=True
    )
    open_health: bool = setting(True, "Access", "Answer /health without a key.")
    open_ready: bool = setting(True, "Access", "Answer /ready without a key.")
    open_metrics: bool = setting(False, "Access", "Answer /metrics without a key.")

    max_queue: Annotated[int, Ge(0)] = setting(128, "Limits", "Requests that may wait for a place; more get a 429.")
    max_body_bytes: Annotated[int, Ge(1)] = setting(2**20, "Limits", "Largest request body; larger ones get a 413.")
    queue_timeout: Annotated[float, Gt(0)] = setting(60.0, "Limits", "Longest wait for a place.")
    first_token_timeout: Annotated[float, Gt(0)] = setting(120.0, "Limits", "Longest wait for the first token.")
    request_timeout: Annotated[float, Gt(0)] = setting(600.0, "Limits", "Longest time that a request may take.")
    drain_grace: Annotated[float, Ge(0)] = setting(
        25.0, "Limits", "How long requests in flight may go on after SIGTERM."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "INFO", "Observability", "Least severe log lines to write."
    )
    log_format: Literal["auto", "json", "console"] = setting(
        "auto", "Observability", "Form of log lines; auto is console on a terminal and json elsewhere."
    )
    metrics_prefix_vllm: bool = setting(
        False, "Observability", "Publish the metrics under vLLM's names too, for dashboards made for it."
    )

    @property
    def api_keys(self) -> tuple[str, ...]:
        return _split(self.api_key)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return _split(self.cors_origins)


def load_settings(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings from the environment, overridden by `flags` (by field name; None means not given).

    Raises:
        ConfigError: a variable with our prefix is unknown, or a value does not fit its setting.
    """
    from pydantic import TypeAdapter, ValidationError

    names = {field.name for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in names:
            raise ConfigError(f"{variable} is not a setting{_nearest(name, names)}. `llm-serve --help` lists them all.")
        if value.strip():
            values[name], origin[name] = value.strip(), variable
    for name, value in flags.items():
        if value is not None:
            values[name], origin[name] = value, "--" + name.replace("_", "-")
    hints = get_type_hints(Settings)
    for name, value in values.items():
        if get_origin(hints[name]) is Literal:
            values[name] = next((c for c in get_args(hints[name]) if c.casefold() == value.casefold()), value)
    try:
        settings: Settings = TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise ConfigError(f"{origin[name]} is {problem['input']!r}: {problem['msg']}.") from None
    if settings.api_key and not settings.api_keys:
        raise ConfigError(f"{origin['api_key']} holds no key, only commas; give one, or leave it unset to need none.")
    return settings


def _nearest(name: str, names: set[str]) -> str:
    near = nearest(name, names, cutoff=0.5)
    return f"; the nearest one is {PREFIX}{near.upper()}" if near else ""


def _split(value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())
