"""From the settings to a model that is ready to serve.

JAX reads its environment when it is imported, so that everything which imports it is imported here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from llm_jax import native
from llm_jax.memory import return_freed_memory
from server.observers import Observer
from server.settings import Settings

if TYPE_CHECKING:
    from server.served_model import ServedModel

log = structlog.get_logger("server")


def load_served_model(settings: Settings, observers: Sequence[Observer]) -> "ServedModel":
    """Loads the model, compiles what requests need and starts the engine's thread.

    Raises:
        ConfigError: a device that is asked for is not there.
        CheckpointError: there is no such model, or it has no tokenizer.
    """
    from llm_jax.hub import load_with_tokenizer
    from llm_jax.model import tensor_parallel_mesh
    from llm_jax.parallel import use_device
    from server.served_model import ServedModel

    device = use_device(settings.device)
    _log_kernels(device)
    mesh = tensor_parallel_mesh(settings.tensor_parallel) if settings.tensor_parallel > 1 else None
    loaded, tokenizer = load_with_tokenizer(settings.model, mesh=mesh)
    parameters = sum(parameter.size for parameter in loaded.model.params.values())
    log.info("loaded", path=str(loaded.path), device=device, parameters=parameters)
    model = ServedModel(settings.served_model_name, loaded, tokenizer, settings, observers=observers, mesh=mesh)
    log.info("weights", types=model.weight_types)
    log.info("kv_cache", tokens=model.kv_tokens, context=model.max_len, max_batch=model.max_batch)
    model.start()
    del loaded  # the engine has weights of its own
    return_freed_memory()
    return model


def _log_kernels(device: str) -> None:
    """One line: which kernels run, and if none on a CPU, why and what to do."""
    from llm_jax.kernels import best_level

    kernels = best_level().name.lower()
    if device == "cpu" and native.status().reason is not None:
        log.warning("kernels", kernels=kernels, reason=native.status().reason)
    else:
        log.info("kernels", kernels=kernels)
