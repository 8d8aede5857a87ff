"""The native library: loaded once, registered with XLA, and what it can do on this processor."""

import ctypes
from functools import lru_cache

import jax
import numpy as np

from llm_jax import native
from llm_jax.native import Level

CALLS = (
    PACK,
    PRODUCT,
    DENSE,
    BLOCK_PRODUCT,
    LOW_RANK,
    ATTENTION,
    SELF_ATTENTION,
    SELF_ATTENTION_GRADIENT,
    EMPTY,
    NORM,
    ADAMW,
    ARGMAX,
) = (
    "llm_pack",
    "llm_product",
    "llm_dense",
    "llm_block_product",
    "llm_low_rank",
    "llm_attention",
    "llm_self_attention",
    "llm_self_attention_gradient",
    "llm_empty",
    "llm_norm",
    "llm_adamw",
    "llm_argmax",
)


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library with its calls registered, None where there is none."""
    library = native.load()
    if library is None:
        return None
    for name in CALLS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


@lru_cache(maxsize=1)
def best_level() -> Level:
    """The highest level that runs here, XLA on a GPU; LLM_JAX_KERNELS names a lower one.

    Raises:
        ConfigError: LLM_JAX_KERNELS names no level.
    """
    level = native.status().level
    if jax.default_backend() != "cpu":
        return Level.XLA
    load()  # a program from disk calls it without being traced
    return level


def is_built() -> bool:
    """Whether the library is there, which packs also for XLA's kernels."""
    return load() is not None


def available() -> bool:
    """Whether native kernels run here."""
    return best_level() > Level.XLA


def features() -> tuple[Level, ...]:
    """All levels that can be asked for here, XLA first."""
    return native.features() if available() else (Level.XLA,)


def placeholder(dtype: np.dtype | type = np.float32) -> np.ndarray:
    """Empty placeholder for an optional FFI operand."""
    return np.zeros(0, dtype)
