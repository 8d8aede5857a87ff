"""DecoderModels of every documented shape, small and random."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm import DecoderModel

SIZES: dict[str, Any] = {"vocab_size": 41, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_seq_len": 24}
SMALL: dict[str, Any] = {"num_layers": 1}  # where depth is not the point
SHAPES: dict[str, dict[str, Any]] = {
    "documented": {},
    "grouped, gated, RMS, learned, no biases": {
        "num_kv_heads": 2, "use_glu": True, "norm_type": nn.RMSNorm, "pos_encoding_learned": True, "qkv_bias": False,
        "mlp_bias": False, "lm_head_bias": False, "mlp_activation": "silu", "intermediate_size": 40,
    },
    "post-norm, multi-query, relu": SMALL | {"norm_first": False, "num_kv_heads": 1, "mlp_activation": "relu"},
    "rotary, padding": {"use_rope": True, "rope_theta": 500.0, "padding_idx": 3, "norm_impl": "rms_norm"},
    "ALiBi, window": SMALL | {"use_alibi": True, "window_size": 5, "mlp_activation": "tanh"},
    "not causal, window, epsilon": SMALL | {"is_causal": False, "window_size": 4, "norm_eps": 1e-2},
    "experts, not gated, grouped": SMALL | {"use_moe": True, "num_experts": 3, "top_k": 2, "num_kv_heads": 2},
    "experts": {"use_moe": True, "num_experts": 4, "top_k": 2, "use_glu": True},
}  # fmt: skip
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def make(shape: dict[str, Any], **more: Any) -> tuple[DecoderModel, dict[str, Any]]:
    """A model whose every parameter is random: no bias zero, no norm one."""
    arguments = SIZES | shape | more
    torch.manual_seed(0)
    model = DecoderModel(**arguments)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model.eval(), arguments


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, 41, shape, generator=torch.Generator().manual_seed(1))


def state_of(model: DecoderModel) -> dict[str, Tensor]:
    """Parameters and buffers themselves, not copies of them."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
