"""How many programs XLA has compiled, by JAX's own account."""

from functools import lru_cache

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # also sent for a program found in the persistent cache


@lru_cache(maxsize=1)  # JAX keeps a listener for the life of the process
def _events() -> list[str]:
    events: list[str] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    return events


def compilations() -> int:
    """Compilations in this process since the first call."""
    return len(_events())
