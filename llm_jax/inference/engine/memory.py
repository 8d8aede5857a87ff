"""How large the KV cache may be: what sequences can use at most, within a share of free memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS
from llm_jax.kernels import Level
from llm_jax.memory import free_memory, parse_memory
from llm_jax.model import block_bytes, layer_windows

KV_MEMORY = "50%"  # unless told otherwise
_GB = 1e9


def pool_blocks(
    config: ModelConfig,
    dtype: jnp.dtype | str,
    *,
    slots: int,
    max_len: int,
    chunk: int,
    keep: int,
    kv_memory: int | str | None,
    devices: int = 1,
) -> tuple[int, ...]:
    """Blocks for each group of layers: enough for all slots at their longest, or as many as memory takes.

    Args:
        dtype: of keys and values.
        max_len: tokens of a sequence; the blocks suffice for one such, but for groups without a window.
        chunk: the most tokens that a forward pass adds to a sequence.
        keep: blocks for prompt beginnings, beside those of running sequences.
        kv_memory: see `parse_memory`; KV_MEMORY unless given.
        devices: how many share the cache.

    Raises:
        ConfigError: kv_memory is no amount of memory.
    """
    whole = -(-max_len // BLOCK_TOKENS)
    windows = layer_windows(config)
    longest = [whole if w is None else min(whole, (w + chunk) // BLOCK_TOKENS + 2) for w in windows]
    wanted = [slots * blocks + keep for blocks in longest]
    sizes = [block_bytes(config, group, BLOCK_TOKENS, dtype) for group in range(len(windows))]
    limit = parse_memory(KV_MEMORY if kv_memory is None else kv_memory, _free_bytes(devices))
    fitting = min(1.0, limit / sum(n * size for n, size in zip(wanted, sizes, strict=True)))
    counts = [int(n * fitting) for n in wanted]
    # A window's blocks must suffice for one sequence; without a window, a sequence can be made shorter.
    return tuple(n if w is None else max(n, least) for n, w, least in zip(counts, windows, longest, strict=True))


def array_blocks(count: int, level: Level) -> int:
    """How many blocks the arrays of a group have, of which `count` are used.

    Free memory differs from start to start, and with the arrays' shapes all programs would: so it is rounded. With
    native kernels, blocks that are not used take no memory.
    """
    return count if level == Level.XLA else 1 << (count - 1).bit_length()


def longest_sequence(config: ModelConfig, counts: Sequence[int], max_len: int) -> int:
    """Tokens of the longest sequence that these blocks take, at most `max_len`."""
    whole = [count for count, window in zip(counts, layer_windows(config), strict=True) if window is None]
    return min([max_len, *(count * BLOCK_TOKENS for count in whole)])


def check_length(length: int, max_len: int, config: ModelConfig, dtype: jnp.dtype | str) -> None:
    """Raises ConfigError where the KV cache takes sequences of `length` tokens alone, and not of `max_len`."""
    if length >= max_len:
        return
    token = sum(block_bytes(config, group, 1, dtype) for group in range(len(layer_windows(config))))
    raise ConfigError(
        f"A sequence of {max_len} tokens needs {max_len * token / _GB:.2g} GB of KV cache, and it takes "
        f"{length} tokens; lower the context (max_len), raise kv_memory, or take a smaller kv_dtype."
    )


def _free_bytes(devices: int) -> int | None:
    """Bytes that are free, None where that is unknown."""
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return devices * int(stats["bytes_limit"] - stats["bytes_in_use"])
    return free_memory() if device.platform == "cpu" else None
