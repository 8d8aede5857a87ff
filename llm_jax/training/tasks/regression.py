"""The synthetic regression: an MLP on y = x + 0.1 · noise. The smallest task for the whole loop."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import load_file, save_file

from llm_jax.atomic import atomic_directory
from llm_jax.data import NOISE, Batch, NoisyLine, Source
from llm_jax.errors import CheckpointError
from llm_jax.kernels import ACTIVATIONS
from llm_jax.model import Params
from llm_jax.training.config import TrainConfig
from llm_jax.training.step import LossSums, total_weight
from llm_jax.training.tasks.balance import check_experts
from llm_jax.training.tasks.losses import squared_error


@dataclass(frozen=True)
class MLP:
    """A perceptron 1 -> hidden_size (num_layers times) -> 1."""

    hidden_size: int
    num_layers: int
    activation: str = "gelu"

    def init(self, seed: int) -> Params:
        """float32 weights [out, in], uniform with deviation 1/sqrt(3 · in) (LeCun 1998), and zero biases."""
        sizes = [1, *[self.hidden_size] * self.num_layers, 1]
        params: Params = {}
        for layer, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
            key, bound = jax.random.fold_in(jax.random.key(seed), layer), size_in**-0.5
            params[f"layers.{layer}.weight"] = jax.random.uniform(key, (size_out, size_in), minval=-bound, maxval=bound)
            params[f"layers.{layer}.bias"] = jnp.zeros(size_out)
        return params

    def __call__(self, params: Params, x_BI: Array, dtype: jnp.dtype) -> Array:
        """float32 [B, 1]."""
        x = x_BI.astype(dtype)
        for layer in range(self.num_layers + 1):
            x = x @ params[f"layers.{layer}.weight"].astype(dtype).T + params[f"layers.{layer}.bias"].astype(dtype)
            if layer < self.num_layers:
                x = ACTIVATIONS[self.activation](x)
        return x.astype(jnp.float32)


@dataclass(frozen=True)
class RegressionTask:
    """An MLP and its samples; the last ones are for validation. Every parameter is trainable."""

    model: MLP
    train: NoisyLine
    validation: NoisyLine | None
    unit: str = "samples"
    beta2: float = 0.999
    flops: float = 0.0
    notes: tuple[str, ...] = ()

    @classmethod
    def build(cls, config: TrainConfig, resumed: Path | None = None) -> Self:
        """Raises ConfigError where experts are to be balanced."""
        check_experts(config.training, None)
        model = config.model
        samples = NoisyLine.sample(config.training.num_samples, config.training.seed)
        held_out = 0
        if config.training.run_validation and len(samples) > 1:
            held_out = min(max(1, round(len(samples) * config.data.val_fraction)), len(samples) - 1)
        cut = len(samples) - held_out
        return cls(
            MLP(model.hidden_size, model.num_layers, model.activation),
            train=NoisyLine(samples.x[:cut], samples.y[:cut]),
            validation=NoisyLine(samples.x[cut:], samples.y[cut:]) if held_out else None,
        )

    @property
    def validations(self) -> Mapping[str, Source]:
        return {}

    @property
    def architecture(self) -> dict[str, object]:
        return {"model_type": "regression_mlp", **dataclasses.asdict(self.model)}

    @property
    def baseline(self) -> tuple[str, float]:
        return "variance of the noise", NOISE**2

    @property
    def decoder(self) -> None:
        return None

    @property
    def fused_rows(self) -> dict[str, tuple[int, ...]]:
        return {}

    def init_trainable(self, seed: int) -> Params:
        return self.model.init(seed)

    def init_frozen(self, seed: int) -> Params:
        return {}

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums:
        predicted_BO = self.model(frozen | trainable, batch["inputs"], dtype)
        return *squared_error(predicted_BO, batch["targets"], batch["weights"]), {}

    def weigh(self, batch: Batch) -> Array:
        return total_weight(batch)

    def model_of(self, trainable: Params, frozen: Params) -> None:
        return None

    def saved_params(self, trainable: Params, frozen: Params) -> Params:
        return frozen | trainable

    def save(self, directory: Path, params: Params) -> None:
        """config.json and model.safetensors, whole or not at all."""
        with atomic_directory(directory) as new:
            weights = {name: np.asarray(value) for name, value in params.items()}
            save_file(weights, new / "model.safetensors", {"format": "np"})
            (new / "config.json").write_text(json.dumps(self.architecture, indent=2) + "\n", encoding="utf-8")


def load_mlp(directory: str | Path) -> tuple[MLP, Params]:
    """The model in a directory that RegressionTask.save wrote.

    Raises:
        CheckpointError: the directory is missing, damaged, or holds something else.
    """
    try:
        config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
        if config.pop("model_type", None) != "regression_mlp":
            raise CheckpointError(f"{directory} does not hold a regression MLP.")
        weights = load_file(Path(directory) / "model.safetensors")
        return MLP(**config), {name: jnp.asarray(value) for name, value in weights.items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: no regression MLP can be read there ({error}).") from None
