"""Losses as (sum, weight): the mean is sum / weight, over one batch or over many."""

import jax
import jax.numpy as jnp
from jax import Array


def next_token_loss(logits_BTV: Array, targets_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    """Cross-entropy in nats, in float32. Targets are the inputs shifted by one; weight 0 leaves a position out."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    target_logits_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    loss_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - target_logits_BT
    return jnp.sum(loss_BT * weights_BT), jnp.sum(weights_BT)


def squared_error(predicted_BO: Array, targets_BO: Array, weights_B: Array) -> tuple[Array, Array]:
    """Squared error, averaged over the outputs of an example."""
    error_B = jnp.square(predicted_BO.astype(jnp.float32) - targets_BO).mean(axis=-1)
    return jnp.sum(error_B * weights_B), jnp.sum(weights_B)
