"""Every setting of the server: one dataclass, filled from `LLM_SERVING_*` variables and from flags.

Nothing heavy is imported here, so that `llm-serve --help` can list the settings at once.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval

from llm_jax.errors import ConfigError, nearest
from llm_jax.memory import parse_memory
from server.model_paths import AdapterPath, adapter_paths, model_paths

PREFIX = "LLM_SERVING_"


def setting(default: Any, group: str, help: str, *, secret: bool = False, synonym: str | None = None) -> Any:
    metadata = {"group": group, "help": help, "synonym": synonym}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told at its start. Times are seconds; an empty variable counts as unset."""

    model: tuple[str, ...] = setting(
        (),
        "Model",
        "Model to serve: a directory, a run, a file, a name on the Hub; several as NAME=PATH, the first by default. "
        "Unset: the bundled demo model.",
        synonym="model_path",
    )
    served_model_name: str = setting("llm", "Model", "Name of a lone model in /v1/models and in answers.")
    adapter: tuple[str, ...] = setting(
        (),
        "Model",
        "LoRA adapter to serve beside its model: NAME=PATH, or NAME=PATH@MODEL; may be repeated.",
    )
    adapter_dir: str | None = setting(
        None, "Model", "Directory whose subdirectories are adapters, each under its name; read again at SIGHUP."
    )
    max_adapters: Annotated[int, Ge(1)] | None = setting(
        None,
        "Model",
        "Adapters of a model at a time. Unset: those of the start, and two more where others may come.",
    )
    max_adapter_rank: Annotated[int, Ge(1)] | None = setting(
        None, "Model", "Highest rank of an adapter. Unset: that of those at the start, or 16."
    )
    device: Literal["auto", "cpu", "cuda", "gpu"] = setting("auto", "Model", "Where to compute.")
    dtype: Literal["auto", "float32", "bfloat16", "int8", "int4"] = setting(
        "auto", "Model", "Weight dtype. auto: the file's own precision on a CPU, bfloat16 on a GPU."
    )
    kv_dtype: Literal["float32", "bfloat16", "int8"] | None = setting(
        None, "Model", "KV cache dtype. Unset: float32 where all weights are, else bfloat16."
    )
    tensor_parallel: Annotated[int, Ge(1)] = setting(
        1, "Model", "Devices to shard the model over, where it is too large for one."
    )
    max_model_len: Annotated[int, Ge(2)] | None = setting(
        None, "Model", "Longest prompt and completion together, in tokens. Unset: what the model was trained for."
    )
    default_max_tokens: Annotated[int, Ge(1)] | Literal["context"] = setting(
        50, "Model", "Tokens of an answer where a request sets no limit; context: up to the context's end."
    )
    generation_config: Literal["none", "auto"] = setting(
        "none",
        "Model",
        "auto: where a request leaves them open, temperature, top_k, top_p and repetition_penalty are those of the "
        "model's generation_config.json.",
    )
    max_batch: Annotated[int, Ge(1)] | None = setting(
        None, "Model", "The most requests that are generated at a time. Unset: 64, or 8 by XLA on a CPU."
    )
    kv_memory: str = setting("50%", "Model", "The most memory for the KV cache: 2GB, 512MiB, or 50% of what is free.")
    prefix_cache: Annotated[int, Ge(0)] = setting(
        4096, "Model", "Tokens that stay in the KV cache when no request needs them, for prompts that begin alike."
    )
    speculate: bool = setting(
        True, "Model", "Speculative decoding by prompt lookup; the generated tokens are the same."
    )

    host: str = setting("127.0.0.1", "Network", "Address to listen on; 0.0.0.0 for every interface.")
    port: Annotated[int, Interval(ge=0, le=65535)] = setting(8000, "Network", "Port to listen on; 0 picks a free one.")
    cors_origins: str | None = setting(
        None, "Network", "Origins whose pages may call the server, separated by commas, or *."
    )

    tls_certificate: str | None = setting(None, "Network", "PEM file with the certificate chain; serves HTTPS.")
    tls_key: str | None = setting(None, "Network", "PEM file with the certificate's private key.")
    tls_key_password: str | None = setting(None, "Network", "Password of that key.", secret=True)

    api_key: str | None = setting(
        None, "Access", "Key that every request must bring; several are separated by commas.", secret=True
    )
    api_key_file: str | None = setting(
        None, "Access", "TOML file of accounts: digests of their keys, and limits; read anew at SIGHUP."
    )
    admin_key: str | None = setting(
        None, "Access", "Key of the routes that load and unload adapters; unset, they refuse everyone.", secret=True
    )
    open_health: bool = setting(True, "Access", "Answer /health without a key.")
    open_ready: bool = setting(True, "Access", "Answer /ready without a key.")
    open_metrics: bool = setting(False, "Access", "Answer /metrics without a key.")

    max_queue: Annotated[int, Ge(0)] = setting(
        128, "Limits", "Queue capacity: requests that may wait for a batch slot; more get a 429."
    )
    max_body_bytes: Annotated[int, Ge(1)] = setting(2**20, "Limits", "Largest request body; larger ones get a 413.")
    read_timeout: Annotated[float, Gt(0)] = setting(
        60.0, "Limits", "Longest time for the head of a request, and silence within its body."
    )
    queue_timeout: Annotated[float, Gt(0)] = setting(60.0, "Limits", "Longest wait for a batch slot.")
    first_token_timeout: Annotated[float, Gt(0)] = setting(120.0, "Limits", "Longest wait for the first token.")
    request_timeout: Annotated[float, Gt(0)] = setting(600.0, "Limits", "Longest time that a request may take.")
    stream_ping: Annotated[float, Gt(0)] = setting(
        15.0, "Limits", "Longest silence of a stream: then it gets a comment, so that proxies hold it open."
    )
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

    otlp_traces_endpoint: str | None = setting(
        None,
        "Observability",
        "OpenTelemetry collector that gets traces, such as http://localhost:4318/v1/traces; needs the extra otel.",
    )

    @property
    def models(self) -> dict[str, str | None]:
        """The paths of the models to load, by name; None is the demo model."""
        return model_paths(self.model, self.served_model_name)

    @property
    def adapters(self) -> dict[str, AdapterPath]:
        """The adapters to load, by name."""
        return adapter_paths(self.adapter, self.models)

    @property
    def api_keys(self) -> tuple[str, ...]:
        return _split(self.api_key)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return _split(self.cors_origins)


def setting_names(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The names of a setting: that of its field first, then its synonym."""
    synonym = field.metadata["synonym"]
    return (field.name,) if synonym is None else (field.name, synonym)


def variable_name(name: str) -> str:
    return PREFIX + name.upper()


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def load_settings(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings from the environment, overridden by `flags` (by field name; None means not given).

    Raises:
        ConfigError: a variable with our prefix is unknown, two names of a setting have different values, or a value
            does not fit its setting.
    """
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(Settings)
    names = {name: field.name for field in dataclasses.fields(Settings) for name in setting_names(field)}
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        value: Any = text.strip()
        if name not in names:
            near = nearest(name, names, cutoff=0.5)
            hint = f"; the nearest one is {variable_name(near)}" if near else ""
            raise ConfigError(f"{variable} is not a setting{hint}. `llm-serve --help` lists them all.")
        name = names[name]
        value = _several(value) if hints[name] == tuple[str, ...] else value
        if value and values.get(name, value) != value:
            raise ConfigError(f"{origin[name]} and {variable} are one setting and have different values; set only one.")
        if value:
            values[name], origin[name] = value, variable
    for name, value in flags.items():
        if value is not None and value != ():
            values[name], origin[name] = value, flag_name(name)
    for name, value in values.items():
        if get_origin(hints[name]) is Literal:
            values[name] = next((c for c in get_args(hints[name]) if c.casefold() == value.casefold()), value)
    try:
        settings: Settings = TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise ConfigError(f"{origin[name]} is {problem['input']!r}: {problem['msg']}.") from None
    try:
        parse_memory(settings.kv_memory, free=0)
    except ConfigError as error:
        raise ConfigError(f"{origin['kv_memory']}: {error}") from None
    if settings.api_key and not settings.api_keys:
        raise ConfigError(f"{origin['api_key']} holds no key, only commas; give one, or leave it unset to need none.")
    _ = settings.adapters  # an error in a name is said now, and not when models have been loaded
    return settings


def _several(text: str) -> tuple[str, ...]:
    """The values of a variable: separated by commas where each has a name, else one."""
    parts = _split(text)
    return parts if all("=" in part for part in parts) else (text,)


def _split(value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())
