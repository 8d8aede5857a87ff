"""Learning which of two answers is better: DPO, its length-normalised form, ORPO."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.data import Batch, pair_rows
from llm_jax.model import Params
from llm_jax.training.config import PreferenceConfig, TrainConfig
from llm_jax.training.step import LossSums
from llm_jax.training.tasks.answers import start_with_tokenizer
from llm_jax.training.tasks.decoder_task import DecoderTask, hidden_states
from llm_jax.training.tasks.losses import token_log_probs
from llm_jax.training.tasks.preferences import Answers, direct_preference, odds_ratio_preference, pairs
from llm_jax.training.tasks.text_data import open_text_data

REFERENCE = "reference."  # begins the names of the parameters of the model before training


@dataclass(frozen=True, kw_only=True)
class PreferenceTask(DecoderTask):
    """A decoder and pairs of answers.

    The model before training is the one beside which an adapter is trained, without the adapter; where the model's own
    parameters are trained, it is a second copy of those.
    """

    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    unit: str = "pairs"

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Raises as `SupervisedTask.build` does."""
        start = start_with_tokenizer(config, resumed)
        data = open_text_data(config, start.tokenizer, "preferences", config.window_within(start.config.max_seq_len))
        floor = "a guess between the two", math.log(2.0)
        return cls.of(config, start, data, floor, preference=config.preference)

    @property
    def has_reference(self) -> bool:
        return self.preference.loss != "orpo"

    def init_frozen(self, seed: int) -> Params:
        frozen = super().init_frozen(seed)
        if not self.has_reference or self.start.adapter is not None:
            return frozen
        before = self.start.init_trainable(seed)  # copies: a step donates its own
        return frozen | {REFERENCE + name: jnp.array(value) for name, value in before.items()}

    def weigh(self, batch: Batch) -> Array:
        tokens_BS = batch["weights"].sum(-1)
        return pairs(tokens_BS.swapaxes(-1, -2).reshape(*tokens_BS.shape[:-2], -1)).sum()

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        rows = pair_rows(batch)
        own = {name: value for name, value in frozen.items() if not name.startswith(REFERENCE)}
        params = self.start.params(trainable, own, dropout_key)
        hidden_BTD, penalties = self.hidden_states(params, rows, dtype=dtype, dropout_key=dropout_key)
        policy = self._answers(params, hidden_BTD, rows)
        if not self.has_reference:
            return self.penalised(odds_ratio_preference(policy, self.preference), penalties)
        before = own | {name.removeprefix(REFERENCE): frozen[name] for name in frozen.keys() - own.keys()}
        before = jax.lax.stop_gradient(before)
        reference_BTD = hidden_states(self.config, before, rows, dtype=dtype, dropout_key=None)
        reference = self._answers(before, reference_BTD, rows)
        return self.penalised(direct_preference(policy, reference, self.preference), penalties)

    def _answers(self, params: Params, hidden_BTD: Array, rows: Batch) -> Answers:
        logp_BT, _ = token_log_probs(self.config, params, hidden_BTD, rows["targets"])
        return Answers.of(logp_BT, rows["weights"])
