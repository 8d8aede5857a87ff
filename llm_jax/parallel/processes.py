"""One run in several processes, on one host or on many."""

import jax

from llm_jax.errors import ConfigError


def join_processes(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the processes of a run, so that `jax.devices()` lists the devices of all. Call it before any computation.

    What is not given is read from the environment where JAX recognises the launcher (SLURM, Open MPI, Kubernetes).

    Args:
        coordinator: address:port of process 0.
        count, index: how many processes there are, and which of them this is.

    Raises:
        ConfigError: something is missing or contradictory.
    """
    try:
        jax.distributed.initialize(coordinator, count, index)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"The processes of this run cannot be joined: {error}") from error
