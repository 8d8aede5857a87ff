"""Regularisers of a mixture of experts, which make its routers use all experts, with scores of moderate size."""

import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.data import Batch
from llm_jax.errors import ConfigError
from llm_jax.model import Routing
from llm_jax.training.config import TrainingConfig

COEFFICIENTS = {"router_aux_loss": "router_aux_loss_coef", "router_z_loss": "router_z_loss_coef"}  # of the penalties


def router_penalties(routing: Routing) -> dict[str, Array]:
    """Float32 scalars, each a mean over tokens and layers.

    router_aux_loss is the balance loss of the Switch Transformer (arXiv:2101.03961, equation 4) as Mixtral has it: the
    number of experts times the sum over them of visits per token times mean probability; with top_k visits of a token
    it is top_k where all experts are used alike. router_z_loss is the squared logsumexp of the scores
    (arXiv:2202.08906, equation 5).
    """
    tokens = jnp.maximum(routing.tokens, 1.0)
    experts = routing.visit_E.shape[0]
    balance = experts * jnp.sum(routing.visit_E / tokens * routing.probability_E / tokens)
    return {"router_aux_loss": balance, "router_z_loss": routing.squared_logsumexp / tokens}


def counted_tokens(batch: Batch) -> Array:
    """Bool [B, T], False for padding: tokens of a segment, or else those up to the last from which is learnt."""
    if "segments" in batch:
        return batch["segments"] > 0
    learnt_BT = batch["weights"] > 0
    return jnp.flip(jnp.cumsum(jnp.flip(learnt_BT, -1), -1), -1) > 0


def has_penalties(settings: TrainingConfig) -> bool:
    return any(getattr(settings, name) for name in COEFFICIENTS.values())


def check_experts(settings: TrainingConfig, config: ModelConfig | None) -> None:
    """Raises ConfigError where there is a penalty, and no expert; `config` is None of a model that is no decoder."""
    for name in COEFFICIENTS.values():
        value = getattr(settings, name)
        if value and not (config and any(map(config.has_experts, range(config.num_layers)))):
            raise ConfigError(
                f"training.{name} is {value}, and the model has no experts, which it is for. Leave it out, or train a "
                "model with experts (model.use_moe, model.num_experts, model.top_k).",
                name,
            )
