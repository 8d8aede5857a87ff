"""The interface between the loop and what it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from llm_jax.data import Source
from llm_jax.model import Params
from llm_jax.training.config import TrainConfig
from llm_jax.training.step import Loss


class Task(Protocol):
    """Data, parameters and a loss.

    Attributes:
        train, validation: examples; validation is None without held-out ones.
        architecture: plain values that must be equal for a run to be resumed.
        baseline: (name, loss) of a model that learnt nothing, or of a perfect one; drawn into the loss plot.
        unit: what the loss is averaged over: "tokens" or "samples".
        beta2: AdamW's, unless set.
        loss: of the trainable and the frozen parameters.
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
    @property
    def loss(self) -> Loss: ...

    def init_trainable(self, seed: int) -> Params:
        """The parameters that training changes, before the first step."""
        ...

    def init_frozen(self, seed: int) -> Params:
        """The parameters that the loss reads and training does not change; {} where all are trainable."""
        ...

    def save(self, directory: Path, params: Params) -> None:
        """Write a directory that describes itself: all parameters, architecture, tokenizer."""
        ...


# What makes a task of a configuration; for a resumed run also of the directory of its last model.
TaskBuilder = Callable[[TrainConfig, Path | None], Task]
