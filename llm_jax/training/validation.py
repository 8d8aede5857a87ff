"""The mean loss over held-out examples."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from llm_jax.data import Batches
from llm_jax.model import Params
from llm_jax.training.placement import Placement
from llm_jax.training.step import EvalStep


@dataclass(frozen=True)
class Validation:
    """Held-out examples, and the step that computes the loss of a batch of them."""

    step: EvalStep
    batches: Batches
    placement: Placement

    def __call__(
        self, trainable: Params, frozen: Params, *, stopped: Callable[[], bool] = lambda: False
    ) -> tuple[float, dict[str, float]] | None:
        """The mean loss, and the means of the loss's other sums by name; None where `stopped` before the end."""
        results = []
        for batch in self.batches.steps(0, self.batches.per_epoch):
            if stopped():
                return None
            examples = self.placement.put_batch(batch, self.batches.size, axis=0)
            results.append(self.step(trainable, frozen, examples))
        loss, weight, aux = jax.tree.map(lambda *sums: np.sum(sums, dtype=np.float64), *jax.device_get(results))
        return float(loss / weight), {name: float(total / weight) for name, total in aux.items()}
