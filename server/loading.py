"""From the settings to a model that is ready to serve. Importing this imports JAX."""

from collections.abc import Mapping, Sequence

import structlog

from llm_jax import native
from llm_jax.hub import load_with_tokenizer
from llm_jax.kernels import best_level
from llm_jax.memory import return_freed_memory
from llm_jax.model import AdapterCapacity, tensor_parallel_mesh
from llm_jax.parallel import use_device
from server.adapters import read
from server.model_paths import AdapterPath
from server.observers import Observer
from server.served_model import ServedModel
from server.settings import Settings

SPARE = 2  # slots for adapters that may come, beside those that there are at the start

log = structlog.get_logger("server")


def load_models(
    settings: Settings, adapters: Mapping[str, AdapterPath], observers: Sequence[Observer]
) -> list[ServedModel]:
    """Loads the models and their adapters, compiles what requests need and starts the engines' threads.

    Returns:
        The models in the order of the settings, then the adapters.

    Raises:
        ConfigError: a device that is asked for is not there, or an adapter does not fit beside the others.
        CheckpointError: there is no such model or adapter, it has no tokenizer, or they do not belong together.
    """
    device = use_device(settings.device)
    _log_kernels(device)
    models: list[ServedModel] = []
    for name, path in settings.models.items():
        mine = {adapter: found.path for adapter, found in adapters.items() if found.model == name}
        models[len(models) :] = _load_model(name, path, mine, settings, observers)
    return sorted(models, key=lambda model: model.parent is not None)


def _load_model(
    name: str, path: str | None, adapters: Mapping[str, str], settings: Settings, observers: Sequence[Observer]
) -> list[ServedModel]:
    """A model, and its adapters."""
    mesh = tensor_parallel_mesh(settings.tensor_parallel) if settings.tensor_parallel > 1 else None
    loaded, tokenizer = load_with_tokenizer(path, mesh=mesh)
    parameters = sum(parameter.size for parameter in loaded.model.params.values())
    log.info("loaded", model=name, path=str(loaded.path), parameters=parameters)
    beside = {adapter: read(folder, loaded.model.config) for adapter, folder in adapters.items()}
    capacity = None
    may_come = settings.admin_key is not None or (
        settings.adapter_dir is not None and name == next(iter(settings.models))
    )
    if beside or settings.max_adapters or may_come:
        capacity = AdapterCapacity.of(
            loaded.model.config,
            {adapter: found.adapter for adapter, (found, _) in beside.items()},
            slots=settings.max_adapters or (SPARE + len(beside) if may_come else None),
            rank=settings.max_adapter_rank,
        )
    model = ServedModel(name, loaded, tokenizer, settings, observers=observers, mesh=mesh, adapters=capacity)
    log.info("weights", model=name, types=model.weight_types)
    log.info("kv_cache", model=name, tokens=model.kv_tokens, context=model.max_len, max_batch=model.max_batch)
    adapted = [model.with_adapter(adapter, *found) for adapter, found in beside.items()]
    if capacity is not None:
        log.info("adapters", model=name, names=[*beside], slots=capacity.slots, rank=capacity.rank)
    model.start()
    del loaded  # the engine has weights of its own
    return_freed_memory()
    return [model, *adapted]


def _log_kernels(device: str) -> None:
    """One line: which kernels run, and if none on a CPU, why and what to do."""
    kernels = best_level().name.lower()
    if device == "cpu" and native.status().reason is not None:
        log.warning("kernels", device=device, kernels=kernels, reason=native.status().reason)
    else:
        log.info("kernels", device=device, kernels=kernels)
