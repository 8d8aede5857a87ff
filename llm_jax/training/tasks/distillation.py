"""Distillation: a student that learns from the distributions of a teacher."""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.checkpoint import StoredModel
from llm_jax.config import ModelConfig
from llm_jax.data import Batch
from llm_jax.errors import ConfigError
from llm_jax.hub import open_pretrained
from llm_jax.model import Params, head_params, merge
from llm_jax.training.config import DistillationConfig, TrainConfig
from llm_jax.training.step import LossSums
from llm_jax.training.tasks.answers import start_with_tokenizer
from llm_jax.training.tasks.decoder_task import DecoderTask, hidden_states
from llm_jax.training.tasks.losses import token_log_probs
from llm_jax.training.tasks.text_data import open_text_data

TEACHER = "teacher."  # begins the names of its parameters
CHUNK = 128  # positions whose distributions are in memory at once


@dataclass(frozen=True, kw_only=True)
class DistillationTask(DecoderTask):
    """A student and its teacher, on texts or conversations."""

    teacher: StoredModel
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Raises as `SupervisedTask.build` does, and ConfigError where the teacher has another tokenizer."""
        if config.distillation.teacher is None:
            raise ConfigError("distillation.teacher is not set: name the model to learn from, by path or Hub name.")
        teacher = open_pretrained(config.distillation.teacher)
        start = start_with_tokenizer(config, resumed)
        _check_vocabularies(start.config, start.tokenizer.vocab_size, teacher)
        data = open_text_data(config, start.tokenizer, "answers", config.window_within(start.config.max_seq_len))
        return cls.of(
            config,
            start,
            data,
            ("a uniform guess", math.log(start.config.vocab_size)),
            teacher=teacher,
            distillation=config.distillation,
        )

    def init_frozen(self, seed: int) -> Params:
        teacher = {name: jnp.array(np.asarray(tensor, np.float32)) for name, tensor in self.teacher.params.items()}
        return super().init_frozen(seed) | {TEACHER + name: value for name, value in teacher.items()}

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        """weight · T² · KL(teacher, student) at temperature T, plus the rest of 1 times the cross-entropy.

        T² makes up for the gradients' falling with T (Hinton et al. 2015, section 2).
        """
        own = {name: value for name, value in frozen.items() if not name.startswith(TEACHER)}
        taught = {name.removeprefix(TEACHER): frozen[name] for name in frozen.keys() - own.keys()}
        params, settings = self.start.params(trainable, own, dropout_key), self.distillation
        student_BTD, penalties = self.hidden_states(params, batch, dtype=dtype, dropout_key=dropout_key)
        teacher_BTD = hidden_states(self.teacher.config, taught, batch, dtype=dtype, dropout_key=None)
        divergence_BT = divergence(
            (self.config, params, student_BTD),
            (self.teacher.config, taught, jax.lax.stop_gradient(teacher_BTD)),
            settings.temperature,
        )
        logp_BT, _ = token_log_probs(self.config, params, student_BTD, batch["targets"])
        weights_BT = batch["weights"]
        sums = {"divergence": jnp.sum(divergence_BT * weights_BT), "cross_entropy": -jnp.sum(logp_BT * weights_BT)}
        own_weight, teacher_weight = 1 - settings.weight, settings.weight * settings.temperature**2
        loss = teacher_weight * sums["divergence"] + own_weight * sums["cross_entropy"]
        return self.penalised((loss, weights_BT.sum(), sums), penalties)


_Head = tuple[ModelConfig, Params, Array]  # of an architecture with these parameters, over these hidden states


def divergence(student: _Head, teacher: _Head, temperature: float) -> Array:
    """KL(teacher, student) of the distributions at each position, in float32 [B, T].

    Logits of CHUNK positions exist at once, and are computed again for the gradient.
    """
    (config, params, student_BTD), (other, taught, teacher_BTD) = student, teacher
    V = min(config.vocab_size, other.vocab_size)  # rows beyond the tokenizer's only pad one of them
    own, theirs = head_params(config, params), head_params(other, taught)
    B, T, _ = student_BTD.shape
    padding = -(B * T) % CHUNK

    def chunks(hidden_BTD: Array) -> Array:
        flat = hidden_BTD.reshape(B * T, -1)
        return jnp.pad(flat, ((0, padding), (0, 0))).reshape(-1, min(CHUNK, B * T + padding), flat.shape[-1])

    def log_probs(config: ModelConfig, params: Params, hidden: Array) -> Array:
        return jax.nn.log_softmax(merge(config, params).head(hidden)[..., :V] / temperature, axis=-1)

    @partial(jax.checkpoint, prevent_cse=False)
    def chunk(own: Params, hidden: tuple[Array, Array]) -> Array:
        logp, target = log_probs(config, own, hidden[0]), log_probs(other, theirs, hidden[1])
        return jnp.sum(jnp.exp(target) * (target - logp), axis=-1)

    _, found = jax.lax.scan(lambda _, hidden: (0, chunk(own, hidden)), 0, (chunks(student_BTD), chunks(teacher_BTD)))
    divergence_BT: Any = found.reshape(-1)[: B * T].reshape(B, T)
    return divergence_BT


def _check_vocabularies(config: ModelConfig, tokens: int, teacher: StoredModel) -> None:
    if (teacher.tokenizer is not None and teacher.tokenizer.vocab_size != tokens) or teacher.config.vocab_size < tokens:
        other = teacher.config.vocab_size if teacher.tokenizer is None else teacher.tokenizer.vocab_size
        raise ConfigError(
            f"distillation.teacher ({teacher.path}) has {other} ids, and the student's tokenizer {tokens}. A student "
            "learns from the teacher's distributions over the same tokens: give both one tokenizer "
            "(data.tokenizer_path)."
        )
