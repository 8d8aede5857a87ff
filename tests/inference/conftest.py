import jax
import pytest

from llm_jax.config import ModelConfig
from llm_jax.model import Model, init_params

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_seq_len=400,
    positions="rotary",
    norm="rms_norm",
    use_glu=True,
    dropout=0.0,
)


@pytest.fixture(scope="session")
def model() -> Model:
    """Random weights, large enough that greedy text does not fall into a loop at once."""
    return Model(CONFIG, {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(CONFIG, seed=7).items()})


@pytest.fixture(scope="session")
def uncausal(model: Model) -> Model:
    from dataclasses import replace

    return Model(replace(model.config, is_causal=False), jax.tree.map(lambda x: x, model.params))
