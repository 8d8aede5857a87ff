"""What a step of training does with all gradients at once: their norm, and AdamW's update in one pass over memory."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu
from llm_jax.native import Level

Arrays = Mapping[str, Array]


def has_native_update() -> bool:
    """Whether native kernels update here. XLA does not divide a native call among devices."""
    return jax.device_count() == 1 and cpu.best_level() != Level.XLA


def norm(arrays: Arrays) -> Array:
    """The Euclidean norm of all elements, float32 []. Natively of float32 arrays, on all cores; by XLA on one."""
    values = list(arrays.values())
    if values and has_native_update() and all(x.dtype == jnp.float32 for x in values):
        return cpu.norm(values)
    return jnp.sqrt(sum((jnp.sum(jnp.square(x)) for x in values), jnp.float32(0)))


def adamw(
    parameters: Arrays,
    means: Arrays,
    squares: Arrays,
    gradients: Arrays,
    *,
    rate: Array,
    factor: Array,
    step: Array,
    applied: Array,
    betas: tuple[float, float],
    epsilon: float,
    decay: Mapping[str, float],
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Parameters and both moments after a step of AdamW (arXiv:1711.05101), in place where they are donated.

    XLA computes the two moments and the parameters in passes of their own, for which it copies both moments.
    Only where `has_native_update`.

    Args:
        parameters, squares, gradients: float32; means: float32 or bfloat16, by the same names.
        factor: what gradients are multiplied by.
        step: how many steps there are with this one.
        applied: bool; nothing changes where it is False.
        decay: of each parameter, before it is multiplied by `rate`.
    """
    names, step = list(parameters), step.astype(jnp.float32)
    scales = [1 / (1 - jnp.float32(beta) ** step) for beta in betas]
    numbers = jnp.stack([jnp.asarray(x, jnp.float32) for x in (rate, factor, *scales, applied)])
    lists = ([arrays[name] for name in names] for arrays in (parameters, means, squares, gradients))
    changed = cpu.adamw(
        *lists,
        numbers=numbers,
        betas=betas,
        epsilon=epsilon,
        decay=[decay[name] for name in names],
    )
    parts = (changed[i * len(names) : (i + 1) * len(names)] for i in range(3))
    first, second, third = (dict(zip(names, part, strict=True)) for part in parts)
    return first, second, third
