"""The interface between the loop and what it trains."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.data import Batch, Source
from llm_jax.model import Model, Params
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import TrainConfig
from llm_jax.training.step import Loss


class Task(Protocol):
    """Data, parameters and a loss.

    Attributes:
        train, validation: examples; validation is None without held-out ones.
        validations: further held-out examples by name, which decide nothing.
        architecture: plain values that must be equal for a run to be resumed.
        baseline: (name, loss) of a model that learnt nothing, or of a perfect one; drawn into the loss plot.
        unit: what the loss is averaged over: "tokens" or "samples".
        beta2: AdamW's, unless set.
        flops: floating-point operations in matrix products for a token of a step; 0 where they are not counted.
        decoder: the configuration of the decoder that is trained, None for another model.
        notes: what whoever starts the run should know of its data.
        fused_rows: rows of the parts of parameters that are several matrices, by name.
        loss: of the trainable and the frozen parameters.
        weigh: what the loss of all micro-batches of a step is averaged over.
    """

    @property
    def train(self) -> Source: ...
    @property
    def validation(self) -> Source | None: ...
    @property
    def validations(self) -> Mapping[str, Source]: ...
    @property
    def architecture(self) -> dict[str, object]: ...
    @property
    def baseline(self) -> tuple[str, float]: ...
    @property
    def unit(self) -> str: ...
    @property
    def beta2(self) -> float: ...
    @property
    def flops(self) -> float: ...
    @property
    def decoder(self) -> ModelConfig | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def fused_rows(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def loss(self) -> Loss: ...

    def weigh(self, batch: Batch) -> Array: ...

    def init_trainable(self, seed: int) -> Params:
        """The parameters that training changes, before the first step."""
        ...

    def init_frozen(self, seed: int) -> Params:
        """The parameters that the loss reads and training does not change; {} where all are trainable."""
        ...

    def model_of(self, trainable: Params, frozen: Params) -> tuple[Model, Tokenizer] | None:
        """What writes text with these parameters; None where nothing does."""
        ...

    def saved_params(self, trainable: Params, frozen: Params) -> Params:
        """Those that `save` writes."""
        ...

    def save(self, directory: Path, params: Params) -> None:
        """Write a directory that describes itself: parameters, architecture, tokenizer."""
        ...


# What makes a task of a configuration; for a resumed run also of the directory of its last model.
TaskBuilder = Callable[[TrainConfig, Path | None], Task]
