"""Meshes: the devices of a run, arranged along named axes."""

import math

import jax
from jax.sharding import AxisType, Mesh

from llm_jax.errors import ConfigError

AXES = ("data", "fsdp", "model")  # batches are sharded on the first two, parameters on the last two


def make_mesh(*, data: int = 1, fsdp: int = 1, model: int = 1) -> Mesh:
    """The first data · fsdp · model devices.

    Args:
        data: parts of a batch, each computed with a whole copy of the parameters.
        fsdp: parts of a batch and of the parameters (fully sharded data parallelism, arXiv:1910.02054).
        model: parts of each matrix (tensor parallelism, arXiv:1909.08053).

    Raises:
        ConfigError: there are fewer devices.
    """
    sizes = (data, fsdp, model)
    devices = math.prod(sizes)
    if min(sizes) < 1 or devices > len(jax.devices()):
        raise ConfigError(f"The model is to be spread over {devices} devices, but JAX finds {len(jax.devices())} here.")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=jax.devices()[:devices])


def tensor_parallel_mesh(devices: int) -> Mesh:
    """A mesh whose `devices` devices compute a part of each matrix.

    Raises:
        ConfigError: there are fewer devices.
    """
    return make_mesh(model=devices)
