"""The parameters of a model before it has learnt anything."""

from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.model.shapes import param_shapes

STD = 0.02  # GPT-2's


def initial_distribution(config: ModelConfig, name: str) -> tuple[float, float]:
    """Mean and standard deviation of a parameter's initial values.

    As in GPT-2: matrices 0.02, and what is added to the residual stream shrunk by its depth, two additions a layer.
    Norms scale by one; biases, sinks and routers' corrections are zero.
    """
    *_, layer, kind = name.split(".")
    if kind != "weight":
        return 0.0, 0.0
    if "norm" in layer:
        return 1.0 - config.norm_offset, 0.0
    return 0.0, STD / (2 * config.num_layers) ** 0.5 if layer in ("out_proj", "fc2") else STD


def init_params(config: ModelConfig, seed: int = 0, dtype: jnp.dtype | str = jnp.float32) -> dict[str, Array]:
    """Random parameters, the same for the same seed; the embedding of the padding id is zero.

    NumPy draws them, each from a generator of its own: a program that draws them all takes XLA longer to compile than
    the model's forward pass.
    """

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        mean, deviation = initial_distribution(config, name)
        values = np.full(shape, mean, np.float32)
        if deviation:
            generator = np.random.default_rng([seed, crc32(name.encode())])
            values = generator.standard_normal(shape, np.float32) * np.float32(deviation)
        if name == "embedding_layer.token_embeddings.weight" and config.padding_idx is not None:
            values[config.padding_idx] = 0.0
        return jnp.asarray(values, dtype)

    shapes = param_shapes(config)
    with ThreadPoolExecutor() as threads:  # drawing lets go of Python's lock
        arrays = threads.map(draw, shapes, (spec.shape for spec in shapes.values()))
        return dict(zip(shapes, arrays, strict=True))
