"""Which device JAX computes on."""

from typing import Literal

import jax

from llm_jax.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda", "gpu"]  # gpu and cuda are the same: an NVIDIA GPU


def use_device(name: DeviceName) -> str:
    """Compute on `name` from here on; auto takes the best device there is. Call it before any computation.

    Returns:
        The device's kind as JAX reports it: "cpu", "NVIDIA H100 80GB HBM3".

    Raises:
        ConfigError: this machine, or this installation of JAX, has no such device.
    """
    if name != "auto":
        # JAX expands gpu to cuda and rocm, and fails unless both are installed.
        jax.config.update("jax_platforms", "cuda" if name == "gpu" else name)
    try:
        return str(jax.devices()[0].device_kind)
    except (RuntimeError, AssertionError):  # JAX asserts that at least one platform was initialised
        platform = jax.config.jax_platforms  # type: ignore[attr-defined]  # set here or by JAX_PLATFORMS
        raise ConfigError(
            f"device is {name!r}. There is no {platform} device here, or JAX is installed without support for it. "
            "Install jax[cuda13] on a machine with an NVIDIA driver, or compute on the CPU: --device cpu "
            "(for llm-serve, LLM_SERVING_DEVICE=cpu does the same)."
        ) from None
