"""Figures that an engine reports about itself."""

import threading
from dataclasses import dataclass
from functools import lru_cache

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX also sends it for a program in its persistent cache


@dataclass(frozen=True)
class EngineStats:
    """The load of an engine now, and its counters since it was made.

    Attributes:
        running, waiting: requests in a batch slot, and in the queue.
        slots: batch slots, the most requests that can run at a time.
        blocks: of the KV cache, in all groups of layers; each has `block_tokens`.
        used_blocks, cached_blocks: those of running requests, each counted once; and those that stay for prompts that
            begin alike, of which the least recently used makes room.
        preemptions: how often a running request was put back into the queue, to be computed again.
        prefix_queries, prefix_hits: prompt tokens of admitted requests, and how many of them were in the cache.
        drafted, accepted: draft tokens of speculative decoding, and how many of them were accepted.
        adapter_slots: how many adapters there can be; running_adapters, waiting_adapters: those that requests have.
        compilations: XLA compilations that a step waited for; none once all programs are there.
        missing_programs: those that are still being made; requests are served meanwhile with what is there.
        failures: steps that have failed since one was right.
        is_dead: the engine's thread has ended, since its state could not be restored.
    """

    running: int
    waiting: int
    slots: int
    blocks: int
    used_blocks: int
    cached_blocks: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    drafted: int
    accepted: int
    compilations: int
    missing_programs: int
    failures: int
    is_dead: bool
    block_tokens: int
    adapter_slots: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()


def compilations(*, here: bool = False) -> int:
    """XLA compilations in this process since the first call; or those of the calling thread alone."""
    threads = _compilations()
    return threads.count(threading.get_ident()) if here else len(threads)


@lru_cache(maxsize=1)  # once per process: a JAX listener cannot be removed
def _compilations() -> list[int]:
    """The thread of each compilation."""
    threads: list[int] = []

    def record(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            threads.append(threading.get_ident())

    jax.monitoring.register_event_duration_secs_listener(record)
    return threads
