"""Llama with a mixture of experts: Mixtral and Qwen 3 MoE."""

import re
from collections.abc import Callable

import numpy as np

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import ATTENTION, BLOCK, ENDS, LAYER, PRE_NORMS, WINDOW, rope_section
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import Rule, same
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig


def _experts(at: str, fc1: str, gate_proj: str, fc2: str) -> tuple[Rule, ...]:
    """The router and the experts, which are stored one by one under the prefix `at`."""
    return (
        same(BLOCK + "mlp.router.weight", LAYER + at + "gate.weight"),
        *(
            same(BLOCK + f"mlp.experts.{param}.weight", LAYER + at + f"experts.{{e}}.{stored}.weight")
            for param, stored in (("fc1", fc1), ("gate_proj", gate_proj), ("fc2", fc2))
        ),
    )


FUSED = re.compile(r"(.*\.)mlp\.experts\.(gate_up_proj|down_proj)")


def _unfused(at: str, fc1: str, gate_proj: str, fc2: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """transformers 5 may store a layer's experts as two tensors, [E, 2 F, D] and [E, D, F]: the same, one by one."""

    def restore(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if not any(FUSED.fullmatch(name) for name in tensors):
            return tensors
        restored: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            fused = FUSED.fullmatch(name)
            if fused is None:
                restored[name.replace(".mlp.gate.", f".{at}gate.")] = tensor
                continue
            for e, expert in enumerate(np.asarray(tensor)):
                parts = np.split(expert, 2) if fused[2] == "gate_up_proj" else [expert]
                stored = (fc1, gate_proj) if fused[2] == "gate_up_proj" else (fc2,)
                names = [f"{fused[1]}{at}experts.{e}.{part}.weight" for part in stored]
                restored |= zip(names, parts, strict=True)
        return restored

    return restore


def _read_window(entries: Json) -> Json:
    return {"window_size": entries.get("sliding_window") if entries.get("use_sliding_window") else None}


def _write_window(config: ModelConfig) -> Json:
    return {"use_sliding_window": config.window_size is not None, "sliding_window": config.window_size}


MIXTRAL_NAMES = ("block_sparse_moe.", "w1", "w3", "w2")
QWEN3_MOE_NAMES = ("mlp.", "gate_proj", "up_proj", "down_proj")
MIXTRAL_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *_experts(*MIXTRAL_NAMES))
QWEN3_MOE_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *_experts(*QWEN3_MOE_NAMES))

MIXTRAL = llama_like(
    "mixtral", "MixtralForCausalLM", MIXTRAL_TABLE,
    keys=KEYS
    | {
        "num_experts": Key("num_local_experts", 8),
        "top_k": Key("num_experts_per_tok", 2),
        "norm_eps": Key("rms_norm_eps", 1e-5),
    },
    always=ALWAYS | {"use_moe": True},
    sections=(rope_section(1e6), WINDOW),
    restore=_unfused(*MIXTRAL_NAMES),
)  # fmt: skip

QWEN3_MOE = llama_like(
    "qwen3_moe", "Qwen3MoeForCausalLM", QWEN3_MOE_TABLE,
    keys=KEYS
    | {
        "intermediate_size": Key("moe_intermediate_size", 768),
        "num_experts": Key("num_experts", 128, aliases=("num_local_experts",)),
        "top_k": Key("num_experts_per_tok", 8),
        "moe_renormalize": Key("norm_topk_prob", False),
        "qkv_bias": Key("attention_bias", False),
    },
    always=ALWAYS | {"use_moe": True, "qk_norm": True},
    sections=(rope_section(), Section(_read_window, _write_window)),
    restore=_unfused(*QWEN3_MOE_NAMES),
    unsupported={"decoder_sparse_step": 1, "mlp_only_layers": []},
)  # fmt: skip
