"""Llama and its near relatives: Mistral (a window), Qwen 2 (biases), Qwen 3 (norms on query and key heads)."""

import re
from typing import Any

from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    ENDS,
    FEED_FORWARD,
    PRE_NORMS,
    WINDOW,
    activation_key,
    read_layer_types,
    write_layer_types,
)
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Family, Json, Key, Section
from llm_jax.checkpoint.names import Rule
from llm_jax.config import ModelConfig

TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *FEED_FORWARD)

KEYS = {
    "vocab_size": Key("vocab_size"),
    "hidden_size": Key("hidden_size"),
    "num_layers": Key("num_hidden_layers"),
    "num_heads": Key("num_attention_heads"),
    "num_kv_heads": Key("num_key_value_heads", None),
    "head_dim": Key("head_dim", None),
    "intermediate_size": Key("intermediate_size"),
    "max_seq_len": Key("max_position_embeddings", 2048),
    "activation": activation_key("hidden_act", "silu"),
    "norm_eps": Key("rms_norm_eps", 1e-6),
    "tie_embeddings": Key("tie_word_embeddings", False),
}

ALWAYS = {
    "positions": "rotary",
    "norm": "rms_norm",
    "use_glu": True,
    "qkv_bias": False,
    "mlp_bias": False,
    "lm_head_bias": False,
    "embedding_scale": 1.0,
    "dropout": 0.0,
}


def llama_like(model_type: str, architecture: str, table: tuple[Rule, ...], **rest: Any) -> Family:
    """A family with files like Llama's: a prefix of the body's names, and buffers in old files."""
    return Family(
        model_type=model_type,
        architecture=architecture,
        table=lambda _: table,
        prefix="model.",
        **({"ignored": re.compile(r"rotary_emb\.inv_freq$")} | rest),
    )


def _read_qwen_window(entries: Json) -> Json:
    if not entries.get("use_sliding_window") or entries.get("sliding_window") is None:
        return {}
    first = entries.get("max_window_layers", 28)
    return {
        "window_size": entries["sliding_window"],
        "window_layers": read_layer_types(entries, lambda i: i >= first),
    }


def _write_qwen_window(config: ModelConfig) -> Json:
    windowed = [config.window(i) is not None for i in range(config.num_layers)]
    return {
        "use_sliding_window": any(windowed),
        "sliding_window": config.window_size,
        "layer_types": write_layer_types(config),
        "max_window_layers": windowed.index(True) if any(windowed) else config.num_layers,
    }


QWEN_WINDOW = Section(_read_qwen_window, _write_qwen_window)

LLAMA = llama_like(
    "llama", "LlamaForCausalLM", TABLE,
    keys=KEYS | {"qkv_bias": Key("attention_bias", False), "mlp_bias": Key("mlp_bias", False)},
    always=ALWAYS,
    sections=(rope_section(),),
)  # fmt: skip

MISTRAL = llama_like(
    "mistral", "MistralForCausalLM", TABLE,
    keys=KEYS,
    always=ALWAYS,
    sections=(rope_section(), WINDOW),
)  # fmt: skip

QWEN2 = llama_like(
    "qwen2", "Qwen2ForCausalLM", TABLE,
    keys=KEYS,
    always=ALWAYS | {"qkv_bias": True, "out_bias": False},
    sections=(rope_section(), QWEN_WINDOW),
)  # fmt: skip

QWEN3 = llama_like(
    "qwen3", "Qwen3ForCausalLM", TABLE,
    keys=KEYS | {"head_dim": Key("head_dim", 128), "qkv_bias": Key("attention_bias", False)},
    always=ALWAYS | {"qk_norm": "head"},
    sections=(rope_section(), QWEN_WINDOW),
)  # fmt: skip
