"""Learning rate by step, and the best loss so far, which the plateau schedule and early stopping rest on."""

import math
from dataclasses import dataclass
from typing import Self

from llm_jax.training.config import CheckpointConfig, Duration, TrainingConfig

PLATEAU_THRESHOLD = 1e-4  # relative; a smaller gain is none, as in torch's ReduceLROnPlateau


@dataclass(frozen=True)
class BestLoss:
    """The lowest loss so far, and the number of losses since then that were no better."""

    best: float = math.inf
    stale: int = 0

    @property
    def finite(self) -> float | None:
        """The lowest loss, None before the first one."""
        return self.best if math.isfinite(self.best) else None

    def updated(self, loss: float, threshold: float) -> "BestLoss":
        """A loss counts as better only below `threshold`."""
        return BestLoss(loss, 0) if loss < threshold else BestLoss(self.best, self.stale + 1)


@dataclass(frozen=True)
class Timetable:
    """The lengths of a run in optimiser steps.

    Attributes:
        total: of the run; an early stop may come before it.
        evaluation, saving: steps between measurements of the validation loss, and between saves.
    """

    per_epoch: int
    total: int
    warmup: int
    evaluation: int
    saving: int

    @classmethod
    def of(
        cls, training: TrainingConfig, checkpoint: CheckpointConfig, *, per_epoch: int, tokens_per_step: int
    ) -> Self:
        """What a configuration says, where a step sees so many tokens (or samples)."""

        def steps(length: str | None, epochs: float) -> int:
            if length is None:
                return round(epochs * per_epoch)
            return Duration.parse(length).steps(per_epoch=per_epoch, tokens_per_step=tokens_per_step)

        total = steps(training.length, training.epochs)
        return cls(
            per_epoch=per_epoch,
            total=total,
            warmup=min(steps(training.warmup, training.warmup_epochs), total // 2),
            evaluation=steps(training.evaluate_every, 1),
            saving=steps(checkpoint.save_every, checkpoint.save_interval),
        )

    def evaluates_after(self, step: int) -> bool:
        """Whether the run is evaluated after so many steps; always at its end."""
        return step % self.evaluation == 0 or step == self.total

    def epochs(self, step: int) -> float:
        """How many epochs so many steps are; whole ones as an integer."""
        return step // self.per_epoch if step % self.per_epoch == 0 else round(step / self.per_epoch, 2)


def learning_rate(config: TrainingConfig, step: int, times: Timetable, plateau_factor: float = 1.0) -> float:
    """The learning rate of optimiser step `step`, counted from 0.

    It rises linearly over the warm-up. Then cosine and linear fall to min_lr at the end of the run; wsd is constant and
    falls in its last `cooldown` with the square root of what is done of it (arXiv:2405.18392); step is multiplied by
    lr_decay every step_epochs; plateau is multiplied by `plateau_factor`, which `plateau` lowers; constant stays.
    """
    if step < times.warmup:
        return config.lr * (step + 1) / times.warmup
    done = min((step - times.warmup) / max(1, times.total - times.warmup), 1.0)
    match config.scheduler_type:
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            share = 1.0 - done
        case "wsd":
            cooldown = max(1, round(config.cooldown * times.total))
            share = 1.0 - math.sqrt(min(max(0, step - (times.total - cooldown)) / cooldown, 1.0))
        case "step":
            return max(config.lr * config.lr_decay ** (step // times.per_epoch // config.step_epochs), config.min_lr)
        case "plateau":
            return max(config.lr * plateau_factor, config.min_lr)
        case "constant":
            share = 1.0
    return config.min_lr + (config.lr - config.min_lr) * share


def plateau(config: TrainingConfig, best: BestLoss, factor: float, loss: float) -> tuple[BestLoss, float]:
    """After more than plateau_patience evaluations without a better validation loss, the factor falls by lr_decay."""
    best = best.updated(loss, best.best * (1.0 - PLATEAU_THRESHOLD))
    if best.stale > config.plateau_patience:
        return BestLoss(best.best, 0), factor * config.lr_decay
    return best, factor
