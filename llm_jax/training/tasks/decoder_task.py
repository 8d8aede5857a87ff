"""What the tasks that train a decoder have in common."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.data import Batch, Source
from llm_jax.model import Model, Params, forward_hidden, forward_routed, param_shapes
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import TrainConfig, TrainingConfig
from llm_jax.training.step import LossSums, total_weight
from llm_jax.training.tasks.balance import COEFFICIENTS, counted_tokens, has_penalties, router_penalties
from llm_jax.training.tasks.losses import next_token_loss, token_log_probs
from llm_jax.training.tasks.start import Start
from llm_jax.training.tasks.text_data import TextData


@dataclass(frozen=True, kw_only=True)
class DecoderTask:
    """A decoder and its data: next-token prediction, where the batch's weights say what is learnt.

    Attributes:
        floor: name and value of the loss to compare with, see `Task.baseline`.
        settings: of regularisers.
        notes: what whoever starts the run should know of its data.
    """

    start: Start
    train: Source
    validation: Source | None
    floor: tuple[str, float]
    validations: Mapping[str, Source] = field(default_factory=dict)
    settings: TrainingConfig = field(default_factory=TrainingConfig)
    unit: str = "tokens"
    beta2: float = 0.95
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: TrainConfig, start: Start, data: TextData, floor: tuple[str, float], **more: Any) -> Self:
        """A task on these data; `more` are the attributes that its class adds."""
        return cls(
            start=start,
            train=data.train,
            validation=data.validation,
            validations=data.validations,
            floor=floor,
            settings=config.training,
            **more,
        )

    @property
    def config(self) -> ModelConfig:
        return self.start.config

    @property
    def decoder(self) -> ModelConfig:
        return self.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.start.tokenizer

    @property
    def architecture(self) -> dict[str, object]:
        return self.config.to_dict()

    @property
    def baseline(self) -> tuple[str, float]:
        return self.floor

    @property
    def flops(self) -> float:
        """Forward, and backward to the inputs of each matrix and, where it is trained, to the matrix itself."""
        frozen = self.start.frozen if self.start.adapter is None else None
        total = 0.0
        for name, value in param_shapes(self.config).items():
            is_head = self.config.tie_embeddings and "token_embeddings" in name
            if len(value.shape) < 2 or ("embed" in name and not is_head):
                continue
            used = self.config.top_k / self.config.num_experts if ".experts." in name else 1.0
            total += 2 * math.prod(value.shape) * used * (2 if frozen is None or name in frozen else 3)
        return total

    @property
    def fused_rows(self) -> dict[str, tuple[int, ...]]:
        config = self.config
        rows = (config.num_heads * config.head_size, *[config.kv_heads * config.head_size] * 2)
        return {f"transformer_blocks.{i}.self_attn.qkv_proj.weight": rows for i in range(config.num_layers)}

    def init_trainable(self, seed: int) -> Params:
        return self.start.init_trainable(seed)

    def init_frozen(self, seed: int) -> Params:
        return self.start.init_frozen(seed)

    def weigh(self, batch: Batch) -> Array:
        return total_weight(batch)

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        params = self.start.params(trainable, frozen, dropout_key)
        hidden_BTD, penalties = self.hidden_states(params, batch, dtype=dtype, dropout_key=dropout_key)
        targets_BT, weights_BT = batch["targets"], batch["weights"]
        if dropout_key is None or not self.settings.z_loss:  # regularisers are for training alone
            total, weight = next_token_loss(self.config, params, hidden_BTD, targets_BT, weights_BT)
            return self.penalised((total, weight, {}), penalties)
        logp_BT, logsumexp_BT = token_log_probs(self.config, params, hidden_BTD, targets_BT)
        loss_BT = self.settings.z_loss * jnp.square(logsumexp_BT) - logp_BT
        return self.penalised((jnp.sum(loss_BT * weights_BT), weights_BT.sum(), {}), penalties)

    def hidden_states(
        self, params: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """The decoder's hidden states [B, T, D] of a batch, and in training the penalties of its routers, by name."""
        if dropout_key is None or not has_penalties(self.settings):
            return hidden_states(self.config, params, batch, dtype=dtype, dropout_key=dropout_key), {}
        hidden_BTD, routing = forward_routed(
            self.config,
            params,
            batch["inputs"],
            counted_tokens(batch),
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            dtype=dtype,
            dropout_key=dropout_key,
        )
        return hidden_BTD, router_penalties(routing)

    def penalised(self, sums: LossSums, penalties: dict[str, Array]) -> LossSums:
        """A loss with the penalties added to its mean; each is measured too."""
        total, weight, aux = sums
        for name, penalty in penalties.items():
            total += getattr(self.settings, COEFFICIENTS[name]) * penalty * weight
            aux = aux | {name: penalty * weight}
        return total, weight, aux

    def model_of(self, trainable: Params, frozen: Params) -> tuple[Model, Tokenizer]:
        return Model(self.config, self.start.merged(trainable, frozen)), self.tokenizer

    def saved_params(self, trainable: Params, frozen: Params) -> Params:
        return self.start.saved_params(trainable, frozen)

    def save(self, directory: Path, params: Params) -> None:
        self.start.save(directory, params)


def hidden_states(
    config: ModelConfig, params: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
) -> Array:
    """The decoder's hidden states [B, T, D] of a batch, whose rows may be packed documents."""
    hidden_BTD, _ = forward_hidden(
        config,
        params,
        batch["inputs"],
        positions_BT=batch.get("positions"),
        segments_BT=batch.get("segments"),
        dtype=dtype,
        dropout_key=dropout_key,
    )
    return hidden_BTD
