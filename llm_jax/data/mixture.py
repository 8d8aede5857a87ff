"""Several sources, of which each gives a part of the examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_jax.data.types import Example, Source


@dataclass(frozen=True)
class Mixture:
    """Sources whose examples come in proportion to weights, whatever their sizes: `Batches` draws them so.

    An epoch has as many examples as all sources together; a source that gives more than it has begins again, in another
    order.

    Attributes:
        weights: above 0, one for each source.
    """

    sources: Sequence[Source]
    weights: Sequence[float]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        """The examples of the first source, then those of the second, and so on."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[number][index - int(self._ends[number]) + len(self.sources[number])]

    @property
    def fingerprint(self) -> str:
        return " ".join(
            f"{weight:g}:{source.fingerprint}" for source, weight in zip(self.sources, self.weights, strict=True)
        )

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(source) for source in self.sources])
