"""Which device to train on."""

from typing import Literal

import jax

from llm_jax.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]


def use_device(name: DeviceName) -> None:
    """Make `name` the device of everything that follows; auto takes the best there is. Call it before any computation.

    Raises:
        ConfigError: this machine, or this installation of JAX, has no such device.
    """
    if name == "auto":
        return
    jax.config.update("jax_platforms", name)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # JAX asserts that some platform came up
        raise ConfigError(
            f"There is no {name} device here, or JAX is installed without support for it. "
            "Use --device cpu, or install jax[cuda13]."
        ) from None
