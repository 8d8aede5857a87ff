"""Losses on preferences between two answers, in terms of the log-probabilities of their tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.training.config import PreferenceConfig


class Answers(NamedTuple):
    """Log-probabilities of answers: chosen ones, then the rejected ones in the same order.

    Attributes:
        sum_B: of all tokens of an answer, float32.
        tokens_B: how many there are; 0 in a row that only pads the batch.
    """

    sum_B: Array
    tokens_B: Array

    @classmethod
    def of(cls, logp_BT: Array, weights_BT: Array) -> "Answers":
        return cls((logp_BT * weights_BT).sum(-1), weights_BT.sum(-1))

    @property
    def mean_B(self) -> Array:
        return self.sum_B / jnp.maximum(self.tokens_B, 1.0)


def direct_preference(
    policy: Answers, reference: Answers, config: PreferenceConfig
) -> tuple[Array, Array, dict[str, Array]]:
    """The sum of DPO's losses over pairs (arXiv:2305.18290, equation 7), the number of pairs, and rewards.

    Label smoothing is that of conservative DPO: the preference is wrong with that probability.

    Args:
        reference: of the model before training; constant.
    """
    normalised = config.loss == "dpo_norm"
    now, before = (answers.mean_B if normalised else answers.sum_B for answers in (policy, reference))
    reward_B = config.beta * (now - jax.lax.stop_gradient(before))
    chosen_B, rejected_B = jnp.split(reward_B, 2)
    counts_B = pairs(policy.tokens_B)
    margin_B, wrong = chosen_B - rejected_B, config.label_smoothing
    loss_B = -(1 - wrong) * jax.nn.log_sigmoid(margin_B) - wrong * jax.nn.log_sigmoid(-margin_B)
    return _summed(loss_B, chosen_B, rejected_B, counts_B)


def odds_ratio_preference(policy: Answers, config: PreferenceConfig) -> tuple[Array, Array, dict[str, Array]]:
    """The sum of ORPO's losses over pairs (arXiv:2403.07691, equation 6), the number of pairs, and rewards.

    The mean negative log-likelihood of the chosen answer, and beta times -log sigmoid of the log of the odds' ratio.
    """
    chosen_B, rejected_B = jnp.split(policy.mean_B, 2)
    counts_B = pairs(policy.tokens_B)
    # A row that only pads has log-probability 0, whose odds are infinite.
    first_B, second_B = (jnp.where(counts_B > 0, x, -1.0) for x in (chosen_B, rejected_B))
    log_odds_B = first_B - second_B - (jnp.log1p(-jnp.exp(first_B)) - jnp.log1p(-jnp.exp(second_B)))
    loss_B = -chosen_B - config.beta * jax.nn.log_sigmoid(log_odds_B)
    return _summed(loss_B, config.beta * chosen_B, config.beta * rejected_B, counts_B)


def pairs(tokens_B: Array) -> Array:
    """1 for each pair, 0 for one that only pads the batch; of answers in the order of `Answers`."""
    chosen_B, rejected_B = jnp.split(tokens_B, 2, axis=-1)
    return ((chosen_B > 0) & (rejected_B > 0)).astype(jnp.float32)


def _summed(
    loss_B: Array, chosen_B: Array, rejected_B: Array, counts_B: Array
) -> tuple[Array, Array, dict[str, Array]]:
    measured = {"margin": chosen_B - rejected_B, "accuracy": (chosen_B > rejected_B).astype(jnp.float32)}
    measured |= {"chosen_reward": chosen_B, "rejected_reward": rejected_B}
    aux = {name: jnp.sum(value * counts_B) for name, value in measured.items()}
    return jnp.sum(loss_B * counts_B), counts_B.sum(), aux
