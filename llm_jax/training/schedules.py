"""Learning rate by step, and the best loss so far, which the plateau schedule and early stopping rest on."""

import math
from dataclasses import dataclass

from llm_jax.training.config import TrainingConfig

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


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int, plateau_factor: float = 1.0) -> float:
    """The learning rate of optimiser step `step`, counted from 0.

    It rises linearly over the warm-up, then: cosine falls to min_lr at the end of the run; step is multiplied by
    lr_decay every step_epochs; plateau is multiplied by `plateau_factor`, which `plateau` lowers.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.scheduler_type == "cosine":
        done = (step - warmup) / max(1, total - warmup)
        return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    if config.scheduler_type == "step":
        plateau_factor = config.lr_decay ** (step // steps_per_epoch // config.step_epochs)
    return max(config.lr * plateau_factor, config.min_lr)


def plateau(config: TrainingConfig, best: BestLoss, factor: float, loss: float) -> tuple[BestLoss, float]:
    """After more than plateau_patience epochs without a better validation loss, the factor falls by lr_decay."""
    best = best.updated(loss, best.best * (1.0 - PLATEAU_THRESHOLD))
    if best.stale > config.plateau_patience:
        return BestLoss(best.best, 0), factor * config.lr_decay
    return best, factor
