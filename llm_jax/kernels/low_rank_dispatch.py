"""Low-rank factors of several adapters beside a matrix (arXiv:2310.18547): each row has those of its own adapter."""

import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu
from llm_jax.kernels.xla import Norm, normalise
from llm_jax.native import Level


def low_rank(
    x: Array,
    slot: Array,
    a_sQI: Array,
    b_sQO: Array,
    *,
    level: Level,
    norm: Norm | None = None,
    residual: Array | None = None,
) -> Array:
    """residual + B_s (A_s norm(x)) with the slot s of each row, in x's dtype.

    XLA computes with the factors of all slots, and masks: no shape depends on which slots there are. Native kernels
    compute with those of a row's own alone, and a row's result does not depend on the rows beside it.

    Args:
        x: float32 or bfloat16 [..., I].
        slot: int [...]; a negative one adds nothing.
        a_sQI, b_sQO: float32 or bfloat16.
        residual: [..., O].
    """
    lead, (s, _, O) = x.shape[:-1], b_sQO.shape
    if level != Level.XLA:
        residual_MO = None if residual is None else residual.reshape(-1, O)
        x_MI = x.reshape(-1, x.shape[-1])
        return cpu.low_rank(x_MI, slot.reshape(-1), a_sQI, b_sQO, norm, residual_MO, level).reshape(*lead, O)
    x = x if norm is None else normalise(x, norm)
    hidden = jnp.einsum("...i,sqi->...sq", x, a_sQI.astype(x.dtype))
    hidden = jnp.where((slot[..., None] == jnp.arange(s))[..., None], hidden, 0)
    y = jnp.einsum("...sq,sqo->...o", hidden, b_sQO.astype(x.dtype))
    return y if residual is None else residual + y
