"""Llama with a mixture of experts: Mixtral, OLMoE, Qwen 2 and 3 MoE, GLM 4.5."""

import re
from collections.abc import Callable

import numpy as np

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    FEED_FORWARD,
    LAYER,
    PRE_NORMS,
    WINDOW,
    read_layer_types,
    write_layer_types,
)
from llm_jax.checkpoint.families.rope import rope_section
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


# Layers that predict further tokens, after the last one of each model, and what Llama's files hold.
NOT_PARAMETERS_OF_GLM = re.compile(r"rotary_emb\.inv_freq$|^model\.layers\.(46|92)\.")
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


def _read_qwen2_window(entries: Json) -> Json:
    last = entries.get("max_window_layers", 28) if entries.get("use_sliding_window") else 0
    layers = read_layer_types(entries, lambda i: i < last and i % 2 == 0)
    return {"window_size": entries.get("sliding_window", 4096) if any(layers) else None, "window_layers": layers}


def _write_qwen2_window(config: ModelConfig) -> Json:
    return _write_window(config) | {"layer_types": write_layer_types(config), "max_window_layers": config.num_layers}


def _read_sparse_layers(entries: Json) -> Json:
    step, dense = entries.get("decoder_sparse_step", 1), entries.get("mlp_only_layers") or []
    layers = range(entries["num_hidden_layers"])
    return {"moe_layers": tuple((i + 1) % step == 0 and i not in dense for i in layers)}


def _write_sparse_layers(config: ModelConfig) -> Json:
    dense = [i for i in range(config.num_layers) if not config.has_experts(i)]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def _read_glm(entries: Json) -> Json:
    size, layers = entries["moe_intermediate_size"], range(entries["num_hidden_layers"])
    first = entries.get("first_k_dense_replace", 1)
    return {
        "moe_layers": tuple(i >= first for i in layers),
        "shared_expert_size": (entries.get("n_shared_experts", 1) * size) or None,
    }


def _write_glm(config: ModelConfig) -> Json:
    return {
        "first_k_dense_replace": sum(not config.has_experts(i) for i in range(config.num_layers)),
        "n_shared_experts": (config.shared_expert_size or 0) // config.ffn_size,
    }


def _feed_forward(param: str, stored: str) -> tuple[Rule, ...]:
    names = (("fc1", "gate_proj"), ("gate_proj", "up_proj"), ("fc2", "down_proj"))
    return tuple(same(BLOCK + f"{param}.{p}.weight", LAYER + f"{stored}.{s}.weight") for p, s in names)


MIXTRAL_NAMES = ("block_sparse_moe.", "w1", "w3", "w2")
QWEN_NAMES = ("mlp.", "gate_proj", "up_proj", "down_proj")
MIXTRAL_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *_experts(*MIXTRAL_NAMES))
QWEN3_MOE_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *FEED_FORWARD, *_experts(*QWEN_NAMES))
QWEN2_MOE_TABLE = (
    *QWEN3_MOE_TABLE,
    *_feed_forward("mlp.shared_expert", "mlp.shared_expert"),
    same(BLOCK + "mlp.shared_expert_gate.weight", LAYER + "mlp.shared_expert_gate.weight"),
)
GLM4_MOE_TABLE = (
    *QWEN3_MOE_TABLE,
    *_feed_forward("mlp.shared_expert", "mlp.shared_experts"),
    same(BLOCK + "mlp.router.correction", LAYER + "mlp.gate.e_score_correction_bias"),
)
SPARSE_LAYERS = Section(_read_sparse_layers, _write_sparse_layers)

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

OLMOE = llama_like(
    "olmoe", "OlmoeForCausalLM", QWEN3_MOE_TABLE,
    keys={name: key for name, key in KEYS.items() if name != "head_dim"}
    | {
        "num_experts": Key("num_experts", 64, aliases=("num_local_experts",)),
        "top_k": Key("num_experts_per_tok", 8),
        "norm_eps": Key("rms_norm_eps", 1e-5),
        "moe_renormalize": Key("norm_topk_prob", False),
        "qkv_bias": Key("attention_bias", False),
    },
    always=ALWAYS | {"use_moe": True, "qk_norm": "width"},
    sections=(rope_section(),),
    restore=_unfused(*QWEN_NAMES),
    unsupported={"clip_qkv": None},
)  # fmt: skip

QWEN_KEYS = KEYS | {
    "intermediate_size": Key("moe_intermediate_size", 768),
    "dense_size": Key("intermediate_size", None),
    "moe_renormalize": Key("norm_topk_prob", False),
}

QWEN2_MOE = llama_like(
    "qwen2_moe", "Qwen2MoeForCausalLM", QWEN2_MOE_TABLE,
    keys=QWEN_KEYS
    | {
        "num_experts": Key("num_experts", 60, aliases=("num_local_experts",)),
        "top_k": Key("num_experts_per_tok", 4),
        "shared_expert_size": Key("shared_expert_intermediate_size", 5632),
        "qkv_bias": Key("qkv_bias", True),
    },
    always=ALWAYS | {"use_moe": True, "shared_expert_gate": True, "out_bias": False},
    sections=(rope_section(), Section(_read_qwen2_window, _write_qwen2_window), SPARSE_LAYERS),
    restore=_unfused(*QWEN_NAMES),
)  # fmt: skip

QWEN3_MOE = llama_like(
    "qwen3_moe", "Qwen3MoeForCausalLM", QWEN3_MOE_TABLE,
    keys=QWEN_KEYS
    | {
        "num_experts": Key("num_experts", 128, aliases=("num_local_experts",)),
        "top_k": Key("num_experts_per_tok", 8),
        "qkv_bias": Key("attention_bias", False),
    },
    always=ALWAYS | {"use_moe": True, "qk_norm": "head"},
    sections=(rope_section(), Section(_read_window, _write_window), SPARSE_LAYERS),
    restore=_unfused(*QWEN_NAMES),
)  # fmt: skip

GLM4_MOE = llama_like(
    "glm4_moe", "Glm4MoeForCausalLM", GLM4_MOE_TABLE,
    keys=QWEN_KEYS
    | {
        "num_experts": Key("n_routed_experts", 128, aliases=("num_local_experts",)),
        "top_k": Key("num_experts_per_tok", 8),
        "norm_eps": Key("rms_norm_eps", 1e-5),
        "expert_scale": Key("routed_scaling_factor", 1.0),
        "moe_renormalize": Key("norm_topk_prob", True),
        "qkv_bias": Key("attention_bias", False),
        "qk_norm": Key(
            "use_qk_norm", False, read=lambda has: "head" if has else None, write=lambda kind: kind is not None
        ),
    },
    always=ALWAYS | {"use_moe": True, "router": "sigmoid", "out_bias": False},
    sections=(rope_section(fraction=0.5), Section(_read_glm, _write_glm)),
    restore=_unfused(*QWEN_NAMES),
    unsupported={"n_group": 1, "topk_group": 1},
    ignored=NOT_PARAMETERS_OF_GLM,
)  # fmt: skip
