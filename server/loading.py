"""From the settings to an engine that is ready to serve.

JAX reads its platform from the environment when it is imported, so that everything which imports it is imported here.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from llm_jax.errors import CheckpointError, ConfigError
from server.metrics import Metrics
from server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from llm_jax.model import Model
    from server.async_engine import AsyncEngine

log = structlog.get_logger("server")


def load_engine(settings: Settings, metrics: Metrics) -> "AsyncEngine":
    """Loads the model, compiles what requests need and starts the engine's thread.

    Raises:
        ConfigError: a device that is asked for is not there.
        CheckpointError: there is no model at the path, or it has no tokenizer.
    """
    _keep_compiled_programs()
    device = _choose_device(settings)
    from llm_jax.checkpoint import load_model
    from llm_jax.model import tensor_parallel_mesh
    from server.async_engine import AsyncEngine

    mesh = tensor_parallel_mesh(settings.tensor_parallel) if settings.tensor_parallel > 1 else None
    path = settings.model_path or _demo_path()
    loaded = load_model(path, mesh=mesh)
    log.info("loaded", path=str(loaded.path), device=device, parameters=_count(loaded.model))
    if loaded.tokenizer is None:
        raise CheckpointError(f"{path} has no tokenizer; put its tokenizer.json beside the weights.")
    engine = AsyncEngine(loaded, loaded.tokenizer, settings, metrics, mesh)
    engine.start()
    return engine


def _keep_compiled_programs() -> None:
    """Lets the next start find what this one compiles, in the user's cache folder or where JAX's own variable says."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llm" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a start needs dozens of small programs


def _choose_device(settings: Settings) -> str:
    """Settles where JAX computes, and says how JAX calls it."""
    if settings.device != "auto":
        os.environ["JAX_PLATFORMS"] = settings.device
    import jax

    try:
        return str(jax.devices()[0].device_kind)
    except (RuntimeError, AssertionError):  # JAX asserts that some platform came up
        raise ConfigError(
            f"device is {settings.device!r}, but JAX finds none here. Install jax[cuda12] on a machine "
            f"with an NVIDIA driver, or set {PREFIX}DEVICE=cpu."
        ) from None


def _count(model: "Model") -> int:
    return sum(parameter.size for parameter in model.params.values())


def _demo_path() -> str:
    from llm_jax import demo

    return str(demo.PATH)
