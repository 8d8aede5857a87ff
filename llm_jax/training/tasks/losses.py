"""Losses as (sum, weight): the mean is sum / weight, over one batch or over many."""

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.model import Params, merge


def next_token_loss(
    config: ModelConfig, params: Params, hidden_BTD: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array]:
    """Cross-entropy in nats, in float32. Targets are the inputs shifted by one; weight 0 leaves a position out.

    Args:
        hidden_BTD: the decoder's hidden states (`forward_hidden`).
    """
    logp_BT, _ = token_log_probs(config, params, hidden_BTD, targets_BT)
    return -jnp.sum(logp_BT * weights_BT), jnp.sum(weights_BT)


def token_log_probs(config: ModelConfig, params: Params, hidden_BTD: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Log-probabilities of the targets, and the logsumexp of all logits; both float32 [B, T].

    What every loss on tokens is made of.

    Args:
        params: those of the head are read, `head_params`.
        hidden_BTD: the decoder's hidden states (`forward_hidden`); the head computes in their dtype.
        targets_BT: int ids.
    """
    logits_BTV = merge(config, params).head(hidden_BTD)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    logsumexp_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return target_BT - logsumexp_BT, logsumexp_BT


def squared_error(predicted_BO: Array, targets_BO: Array, weights_B: Array) -> tuple[Array, Array]:
    """Squared error, averaged over the outputs of an example."""
    error_B = jnp.square(predicted_BO.astype(jnp.float32) - targets_BO).mean(axis=-1)
    return jnp.sum(error_B * weights_B), jnp.sum(weights_B)
