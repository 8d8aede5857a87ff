"""Llama with a mixture of experts: Mixtral and Qwen 3 MoE."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import ATTENTION, BLOCK, ENDS, LAYER, PRE_NORMS, WINDOW, rope_section
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import Rule, same
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


def _read_window(entries: Json) -> Json:
    return {"window_size": entries.get("sliding_window") if entries.get("use_sliding_window") else None}


def _write_window(config: ModelConfig) -> Json:
    return {"use_sliding_window": config.window_size is not None, "sliding_window": config.window_size}


MIXTRAL_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *_experts("block_sparse_moe.", "w1", "w3", "w2"))
QWEN3_MOE_TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *_experts("mlp.", "gate_proj", "up_proj", "down_proj"))

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
    unsupported={"decoder_sparse_step": 1, "mlp_only_layers": []},
)  # fmt: skip
