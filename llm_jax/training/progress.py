"""The progress of a run: plain numbers that are saved with the arrays of its state."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from llm_jax.training.config import TrainingConfig
from llm_jax.training.schedules import BestLoss, plateau


@dataclass(frozen=True)
class Progress:
    """What resuming needs besides the arrays.

    Attributes:
        step: optimiser steps done; also the position in the data, and the source of dropout keys.
        evaluated: the step after which the run was last evaluated.
        skipped, failures: steps whose loss or gradient was not finite, in all and in a row up to now.
        epoch_loss, epoch_weight: sums over the steps since then.
        best: the best validation loss.
        score: the best checkpoint.best_metric, negated where higher is better; it decides what is saved as best.
        patience: the best validation loss with early_stopping_min_delta, which decides when to stop.
        plateau, lr_factor: of the plateau schedule.
    """

    step: int = 0
    evaluated: int = 0
    skipped: int = 0
    failures: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    last_loss: float | None = None  # validation, at the last evaluation
    last_score: float | None = None  # of the evaluation here; None between evaluations
    best: BestLoss = field(default_factory=BestLoss)
    score: BestLoss = field(default_factory=BestLoss)
    patience: BestLoss = field(default_factory=BestLoss)
    plateau: BestLoss = field(default_factory=BestLoss)
    lr_factor: float = 1.0

    def stepped(self, loss: float, weight: float) -> "Progress":
        return dataclasses.replace(
            self,
            step=self.step + 1,
            epoch_loss=self.epoch_loss + loss * weight,
            epoch_weight=self.epoch_weight + weight,
            failures=0,
            last_score=None,
        )

    def failed(self) -> "Progress":
        """After a step that was skipped because its loss or gradient was not finite."""
        return dataclasses.replace(
            self, step=self.step + 1, skipped=self.skipped + 1, failures=self.failures + 1, last_score=None
        )

    @property
    def train_loss(self) -> float:
        """Mean since the last evaluation."""
        return self.epoch_loss / self.epoch_weight if self.epoch_weight else math.nan

    def measured(self, config: TrainingConfig, validation_loss: float | None, score: float | None = None) -> "Progress":
        """The sums cleared, and what an evaluation measured taken into account."""
        done = dataclasses.replace(
            self, evaluated=self.step, epoch_loss=0.0, epoch_weight=0.0, last_loss=validation_loss, last_score=score
        )
        if score is not None:
            done = dataclasses.replace(done, score=self.score.updated(score, self.score.best))
        if validation_loss is None:
            return done
        best, factor = plateau(config, self.plateau, self.lr_factor, validation_loss)
        return dataclasses.replace(
            done,
            best=self.best.updated(validation_loss, self.best.best),
            patience=self.patience.updated(validation_loss, self.patience.best - config.early_stopping_min_delta),
            plateau=best,
            lr_factor=factor,
        )

    def stops_early(self, config: TrainingConfig) -> bool:
        """True where early stopping ends the run."""
        patience = config.early_stopping_patience
        return patience is not None and self.patience.stale >= patience

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        best = {name: BestLoss(**values[name]) for name in ("best", "score", "patience", "plateau")}
        return cls(**{**values, **best})
