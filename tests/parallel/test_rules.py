"""Named mesh axes, and the rules from logical axis names to them."""

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.model import param_shapes, param_sharding
from llm_jax.parallel import AXES, make_mesh, parts, sharding

CONFIG = ModelConfig(vocab_size=64, hidden_size=32, num_heads=8, num_kv_heads=4, use_glu=True, positions="rotary")


def mesh(data: int, fsdp: int, model: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, model), AXES)


def specs(mesh: AbstractMesh) -> dict[str, PartitionSpec]:
    """Where the weights of the first block, the embedding and the head lie."""
    return {
        name.removeprefix("transformer_blocks.0."): param_sharding(CONFIG, name, x.shape, mesh).spec
        for name, x in param_shapes(CONFIG).items()
        if name.startswith(("transformer_blocks.0.", "embedding", "lm_head"))
    }


def test_tensor_parallelism_cuts_outputs_then_inputs() -> None:
    found = specs(mesh(1, 1, 4))
    model = ("model",)
    assert found["self_attn.qkv_proj.weight"] == PartitionSpec(model, None)
    assert found["self_attn.out_proj.weight"] == PartitionSpec(None, model)
    assert found["mlp.fc1.weight"] == found["mlp.gate_proj.weight"] == PartitionSpec(model, None)
    assert found["mlp.fc2.weight"] == PartitionSpec(None, model)
    assert found["norm1.weight"] == PartitionSpec()


def test_fully_sharded_parameters_are_cut_on_their_width_beside_the_model_axis() -> None:
    found = specs(mesh(2, 2, 2))
    assert found["mlp.fc1.weight"] == PartitionSpec(("model",), ("fsdp",))
    assert found["mlp.fc2.weight"] == PartitionSpec(("fsdp",), ("model",))
    assert found["lm_head.weight"] == PartitionSpec(("model",), ("fsdp",))


def test_an_axis_of_one_device_and_a_dimension_that_does_not_divide_stay_whole() -> None:
    assert specs(mesh(8, 1, 1))["mlp.fc1.weight"] == PartitionSpec(None, None)
    assert specs(mesh(1, 1, 5))["self_attn.qkv_proj.weight"] == PartitionSpec(None, None)  # 16 heads
    placed = sharding(mesh(2, 2, 3), ("batch", None, "embed"), (6, 7, 9))
    assert placed.spec == PartitionSpec(None, None, None)


def test_a_batch_is_cut_on_both_data_axes() -> None:
    placed = sharding(mesh(2, 3, 4), ("batch", None), (12, 5))
    assert placed.spec == PartitionSpec(("data", "fsdp"), None)
    assert parts(placed) == 6


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="64 devices"):
        make_mesh(data=4, fsdp=4, model=4)
