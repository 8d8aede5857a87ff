"""Adapters that come and go while the server runs: by its settings, by SIGHUP, by an operator's request."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from llm_jax.errors import CheckpointError, ConfigError, LLMError
from server.http.errors import InvalidRequest, NotFound
from server.model_paths import AdapterPath
from server.registry import Registry
from server.settings import Settings

if TYPE_CHECKING:  # they import JAX, which reads its environment then
    from llm_jax.checkpoint import LoadedAdapter
    from llm_jax.config import ModelConfig
    from llm_jax.tokenizers import Tokenizer

log = structlog.get_logger("server")


def find_adapters(settings: Settings) -> dict[str, AdapterPath]:
    """The adapters that the settings name, and those of the directory that they name, by name.

    Those of the directory are for the first model.

    Raises:
        ConfigError: there is no such directory.
    """
    named = settings.adapters
    from llm_jax.checkpoint import adapter_directory

    first = next(iter(settings.models))
    try:
        folders = sorted(Path(settings.adapter_dir).iterdir()) if settings.adapter_dir else []
    except OSError as error:
        raise ConfigError(f"adapter_dir is {settings.adapter_dir}, which cannot be read: {error.strerror}.") from None
    found = {folder.name: AdapterPath(str(folder), first) for folder in folders if adapter_directory(folder)}
    return {**found, **named}


def read(path: str, config: "ModelConfig") -> "tuple[LoadedAdapter, Tokenizer | None]":
    """An adapter, and the tokenizer beside it where there is one.

    Raises:
        CheckpointError: there is no adapter, or it does not fit the model.
    """
    from llm_jax.checkpoint import read_adapter
    from llm_jax.tokenizers import load_tokenizer

    directory = _directory(path)
    if directory is None:
        raise CheckpointError(f"{path} has no adapter: there is no adapter_config.json.")
    has_tokenizer = any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return read_adapter(directory, config), load_tokenizer(directory) if has_tokenizer else None


class Adapters:
    """The adapters of a server's models. Used on the event loop alone; one change at a time."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry, self._settings = registry, settings
        self._changing = asyncio.Lock()
        self._by_settings: dict[str, tuple[AdapterPath, float]] = {}  # with the time when its file was written

    async def load(self, name: str, path: AdapterPath) -> None:
        """Serves an adapter under a name; one that has it is replaced, and its requests go on with it.

        Raises:
            InvalidRequest: the adapter cannot be served, or the name is a model's.
            NotFound: there is no such model, or no adapter at the path.
        """
        async with self._changing:
            await self._load(name, path)

    async def unload(self, name: str) -> None:
        """Serves an adapter to no more requests; those that it has go on.

        Raises:
            NotFound: there is none.
        """
        async with self._changing:
            self._unload(name)

    def remember(self, found: dict[str, AdapterPath]) -> None:
        """Notes what has been loaded by the settings."""
        self._by_settings = {name: (path, _written(path)) for name, path in found.items()}

    async def refresh(self) -> None:
        """Reads the adapter directory again: serves what is new or written anew, drops what has gone."""
        async with self._changing:
            try:
                found = await asyncio.to_thread(find_adapters, self._settings)
            except ConfigError as error:
                log.error("adapters not refreshed", reason=str(error))
                return
            for name in self._by_settings.keys() - found.keys():
                del self._by_settings[name]
                if name in self._registry.names:
                    self._unload(name)
            for name, path in found.items():
                now = path, _written(path)
                if self._by_settings.get(name) == now:
                    continue
                try:
                    await self._load(name, path)
                    self._by_settings[name] = now
                except (InvalidRequest, NotFound) as error:
                    log.error("adapter not loaded", name=name, reason=str(error))

    async def _load(self, name: str, path: AdapterPath) -> None:
        known = {model.name: model for model in self._registry.bases}
        if name in known:
            raise InvalidRequest(f"{name!r} is a model of this server; choose another name.", param="lora_name")
        if path.model not in known:
            models = ", ".join(known)
            raise NotFound(f"There is no model {path.model!r}; this server has {models}.", code="model_not_found")
        model = known[path.model]
        if await asyncio.to_thread(_directory, path.path) is None:
            raise NotFound(
                f"{path.path} has no adapter: there is no adapter_config.json.",
                param="lora_path",
                code="adapter_not_found",
            )
        try:
            loaded, tokenizer = await asyncio.to_thread(read, path.path, model.config)
            adapted = await asyncio.to_thread(model.with_adapter, name, loaded, tokenizer)
        except LLMError as error:
            raise InvalidRequest(str(error), param="lora_path", code="adapter_not_loaded") from None
        former = self._registry.get(name) if name in self._registry.names else None
        self._registry.add(adapted)
        if former is not None and former.parent != model.name:
            former.drop_adapter(name)
        log.info("adapter loaded", name=name, model=model.name, path=path.path)

    def _unload(self, name: str) -> None:
        model = self._registry.get(name)
        if model.parent is None:
            raise NotFound(f"{name!r} is a model, not an adapter.", code="model_not_found")
        self._registry.remove(name)
        model.drop_adapter(name)
        log.info("adapter unloaded", name=name)


def _directory(path: str) -> Path | None:
    """Of the adapter at a path; None where there is none, and where no file can have that name."""
    from llm_jax.checkpoint import adapter_directory

    try:
        return adapter_directory(Path(path))
    except OSError:
        return None


def _written(path: AdapterPath) -> float:
    """When the adapter's files were last written."""
    directory = _directory(path.path)
    files = [] if directory is None else directory.iterdir()
    return max((file.stat().st_mtime for file in files), default=0.0)
