"""What an engine tells about itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing, and what it has done so far.

    Attributes:
        running, waiting: requests. slots: how many can run.
        kv_tokens, kv_capacity: tokens held by running requests, and room for them.
        prefix_blocks, prefix_free: kept blocks of prompts, and room for more before the oldest make way.
        prefix_queries, prefix_hits: tokens of prompts, and how many of them need not be computed.
        drafted, accepted: guessed tokens, and how many of them were right.
        compilations: by XLA, in this process, since its first engine was made.
    """

    running: int
    waiting: int
    slots: int
    kv_tokens: int
    kv_capacity: int
    prefix_blocks: int
    prefix_free: int
    prefix_queries: int
    prefix_hits: int
    drafted: int
    accepted: int
    compilations: int
