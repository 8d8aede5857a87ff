"""What the loop needs to know about what it trains."""

from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
from jax import Array

from llm_jax.data import Source
from llm_jax.model import Params
from llm_jax.training.step import Batch


class Task(Protocol):
    """Data, parameters and a loss.

    Attributes:
        train, validation: examples; validation is None where none is held out.
        architecture: plain values that must be equal for a run to be continued.
        baseline: (name, loss) of a model that learnt nothing, or of a perfect one; drawn into the loss plot.
        unit: what the loss is averaged over: "tokens" or "samples".
        beta2: AdamW's, unless set.
    """

    @property
    def train(self) -> Source: ...
    @property
    def validation(self) -> Source | None: ...
    @property
    def architecture(self) -> dict[str, object]: ...
    @property
    def baseline(self) -> tuple[str, float]: ...
    @property
    def unit(self) -> str: ...
    @property
    def beta2(self) -> float: ...

    def init(self, seed: int) -> Params: ...

    def loss(
        self, params: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> tuple[Array, Array]: ...

    def save(self, directory: Path, params: Params) -> None:
        """Write a directory that describes itself: weights, architecture, tokenizer."""
        ...
