"""One run in several processes, on one host or on many."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.errors import ConfigError

TEXT_BYTES = 1024  # of what `text_of_first` passes on


def join_processes(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the processes of a run, so that `jax.devices()` lists the devices of all. Call it before any computation.

    What is not given is read from the environment where JAX recognises the launcher (SLURM, Open MPI, Kubernetes).
    Processes that are joined already stay so.

    Args:
        coordinator: address:port of process 0.
        count, index: how many processes there are, and which of them this is.

    Raises:
        ConfigError: something is missing or contradictory, or JAX has computed already.
    """
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(coordinator, count, index)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"The processes of this run cannot be joined: {error}") from error


@contextlib.contextmanager
def leaving_on_failure() -> Iterator[None]:
    """Where the block raises in one of several processes, this one does not wait for the others when it exits.

    JAX's own exit waits minutes for every process, while the others wait for this one in a collective. Here its
    connections close as soon as the error is reported, and with exit status 1; the others then fail and leave.
    """
    try:
        yield
    except BaseException:
        if jax.process_count() > 1:
            atexit.register(_leave)  # the last that is registered runs first, so before JAX's
        raise


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_first() -> bool:
    """True in the process that writes what all of them write together, and that speaks for them."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process is at the point of this name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def text_of_first(text: str) -> str:
    """In every process, the text that the first one has."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    padded = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
    shared = multihost_utils.broadcast_one_to_all(np.frombuffer(padded, np.uint8))
    return bytes(np.asarray(shared)).rstrip(b"\0").decode(errors="ignore")


def largest(value: int, mesh: Mesh) -> Array:
    """The largest of the values of all processes, an int32 scalar on every device. It does not wait for them."""
    devices = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    shape = (mesh.size,)
    return _max(jax.make_array_from_callback(shape, devices, lambda index: np.full(shape, value, np.int32)[index]))


@jax.jit
def _max(values: Array) -> Array:
    return jnp.max(values)


def on_host(value: Array | np.ndarray) -> np.ndarray:
    """A copy of an array in the host's memory; every process has to call it where it lies on the devices of several."""
    if isinstance(value, np.ndarray) or value.is_fully_addressable or value.is_fully_replicated:
        return np.array(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))
