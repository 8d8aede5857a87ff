"""Kernels in plain JAX, which XLA compiles for any device."""

from llm_jax.kernels.xla.argmax import first_argmax
from llm_jax.kernels.xla.attention import attention, cached_attention
from llm_jax.kernels.xla.blocked_attention import blocked_attention
from llm_jax.kernels.xla.blocks import block_bytes, decode, decode_rows
from llm_jax.kernels.xla.functions import (
    ACTIVATIONS,
    ActivationName,
    Norm,
    afresh,
    dropout,
    normalise,
    rotate,
    softcap,
)
from llm_jax.kernels.xla.matmul import matmul
from llm_jax.kernels.xla.random import bernoulli, threefry

__all__ = [
    "ACTIVATIONS",
    "ActivationName",
    "Norm",
    "afresh",
    "attention",
    "bernoulli",
    "block_bytes",
    "blocked_attention",
    "cached_attention",
    "decode",
    "decode_rows",
    "dropout",
    "first_argmax",
    "matmul",
    "normalise",
    "rotate",
    "softcap",
    "threefry",
]
