"""Low-rank factors beside a matrix: of one adapter, which are trained, or of several, of which each row has its own.

The second as in Punica (arXiv:2310.18547).
"""

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels import cpu
from llm_jax.kernels.xla import Norm, normalise
from llm_jax.native import Level


@jax.custom_vjp
def add_low_rank(y: Array, x: Array, a_QI: Array, b_OQ: Array) -> Array:
    """y + B (A x), in x's dtype: [..., O], [..., I] -> [..., O].

    With a gradient of its own: for that of B, XLA's CPU compiler would transpose the gradient of y in one pass with
    whatever this is made of, at a few nanoseconds a number.
    """
    return y + _hidden(x, a_QI) @ b_OQ.T.astype(x.dtype)


def _hidden(x: Array, a_QI: Array) -> Array:
    return jnp.einsum("...i,qi->...q", x, a_QI.astype(x.dtype))


def _forward(y: Array, x: Array, a_QI: Array, b_OQ: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return add_low_rank(y, x, a_QI, b_OQ), (x, a_QI, b_OQ)


def _backward(saved: tuple[Array, Array, Array], of_y: Array) -> tuple[Array, Array, Array, Array]:
    x, a_QI, b_OQ = saved
    of_hidden = jnp.einsum("...o,oq->...q", of_y, b_OQ.astype(x.dtype))
    of_x = jnp.einsum("...q,qi->...i", of_hidden, a_QI.astype(x.dtype))
    of_a_QI = jnp.einsum("...q,...i->qi", of_hidden, x, preferred_element_type=a_QI.dtype)
    of_b_QO = jnp.einsum("...q,...o->qo", _hidden(x, a_QI), of_y, preferred_element_type=b_OQ.dtype)
    return of_y, of_x, of_a_QI, of_b_QO.T


add_low_rank.defvjp(_forward, _backward)


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
