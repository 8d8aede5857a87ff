"""Examples, batches, and what a data set is."""

from typing import Any, Protocol

import numpy as np

Example = dict[str, np.ndarray]  # "inputs", "targets" and "weights", of the same shapes in every example
Batch = dict[str, Any]  # examples stacked to [B, …]: NumPy arrays from `Batches`, JAX arrays inside a step


class Source(Protocol):
    """Random access to examples.

    Attributes:
        fingerprint: the same for the same examples alone.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
