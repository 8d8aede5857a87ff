"""The synthetic regression: y = x + 0.1 · noise."""

from dataclasses import dataclass

import numpy as np

from llm_jax.data.sequences import digest_of
from llm_jax.data.types import Example

NOISE = 0.1


@dataclass(frozen=True)
class NoisyLine:
    """Random access to the samples (x, y). The lowest mean squared error that any model can reach is NOISE² = 0.01.

    Attributes:
        x, y: float32, one number per sample.
    """

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def sample(cls, count: int, seed: int) -> "NoisyLine":
        """`count` samples, x and noise both standard normal; the same for the same seed."""
        random = np.random.default_rng(seed)
        x = random.standard_normal(count, np.float32)
        return cls(x, x + np.float32(NOISE) * random.standard_normal(count, np.float32))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fingerprint(self) -> str:
        return digest_of(self.x, self.y)

    def __getitem__(self, index: int) -> Example:
        """inputs float32 [1], targets float32 [1], weights float32 []."""
        return {"inputs": self.x[index, None], "targets": self.y[index, None], "weights": np.ones((), np.float32)}
