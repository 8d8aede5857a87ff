"""Settings of single objectives: preferences between answers, and distillation."""

from dataclasses import dataclass
from typing import Literal

from llm_jax.config import require


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """How a preference between two answers is learnt (--task dpo).

    dpo (arXiv:2305.18290) raises the log-probability of the chosen answer over the rejected one, each beside that of
    the model before training; dpo_norm divides the log-probabilities by the lengths of the answers (arXiv:2411.15124);
    orpo (arXiv:2403.07691) is a language model's loss on the chosen answer plus one on the ratio of the odds, and needs
    no model before training.
    """

    loss: Literal["dpo", "dpo_norm", "orpo"] = "dpo"
    beta: float = 0.1  # of the log-ratio; of orpo, the weight of the odds
    label_smoothing: float = 0.0  # the probability that a preference is the wrong way round; not of orpo

    def __post_init__(self) -> None:
        require(self.beta > 0, self, "beta", "above 0")
        require(0.0 <= self.label_smoothing < 0.5, self, "label_smoothing", "at least 0 and below 0.5")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How a student learns from the logits of a teacher (--task distill; Hinton et al. 2015, arXiv:1503.02531)."""

    teacher: str | None = None  # whatever can be loaded; it has the student's tokenizer
    temperature: float = 1.0  # divides the logits of both
    weight: float = 1.0  # of the teacher's distribution in the loss; the rest is that of the data

    def __post_init__(self) -> None:
        require(self.temperature > 0, self, "temperature", "above 0")
        require(0.0 <= self.weight <= 1.0, self, "weight", "0 to 1")
