"""Gemma: scaled embeddings and norms; 2 and the text half of 3 with norms around each block, windows on most layers."""

from dataclasses import replace

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.llama import TABLE as PRE_NORM_TABLE
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    FEED_FORWARD,
    FULL,
    LAYER,
    SLIDING,
    activation_key,
    older_rope,
    read_layer_types,
    read_rope,
    rope_section,
    write_layer_types,
    write_rope,
)
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import same
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

TABLE = (
    *ENDS,
    *ATTENTION,
    *FEED_FORWARD,
    same(BLOCK + "norm1.weight", LAYER + "input_layernorm.weight"),
    same(BLOCK + "post_attn_norm.weight", LAYER + "post_attention_layernorm.weight"),
    same(BLOCK + "norm2.weight", LAYER + "pre_feedforward_layernorm.weight"),
    same(BLOCK + "post_mlp_norm.weight", LAYER + "post_feedforward_layernorm.weight"),
)

GELU = activation_key("hidden_act", "gelu_pytorch_tanh")
KEYS_1 = KEYS | {
    "head_dim": Key("head_dim", 256),
    # The first releases said "gelu" and meant its approximation.
    "activation": replace(GELU, read=lambda name: GELU.read("gelu_pytorch_tanh" if name == "gelu" else name)),
    "tie_embeddings": Key("tie_word_embeddings", True),
    "qkv_bias": Key("attention_bias", False),
}
KEYS_2 = KEYS_1 | {
    "activation": replace(GELU, name="hidden_activation"),
    # Attention is scaled by 1 / sqrt of this whole number, which need not be the head size.
    "attention_scale": Key(
        "query_pre_attn_scalar", 256, read=lambda scalar: scalar**-0.5, write=lambda scale: round(scale**-2)
    ),
}

ALWAYS_1 = {name: value for name, value in ALWAYS.items() if name != "embedding_scale"} | {"norm_offset": 1.0}
ALWAYS_2 = ALWAYS_1 | {"sandwich_norm": True}

UNSUPPORTED = {"use_bidirectional_attention": False}


def _window_section(pattern: int) -> Section:
    """Every `pattern`-th layer has full attention, unless config.json says otherwise; the others have the window."""

    def read(entries: Json) -> Json:
        step = entries.get("sliding_window_pattern") or entries.get("_sliding_window_pattern") or pattern
        layers = read_layer_types(entries, lambda i: (i + 1) % step != 0)
        return {"window_size": entries.get("sliding_window", 4096) if any(layers) else None, "window_layers": layers}

    def write(config: ModelConfig) -> Json:
        return {"sliding_window": config.window_size, "layer_types": write_layer_types(config)}

    return Section(read, write)


def _read_two_ropes(entries: Json) -> Json:
    ropes = entries.get("rope_parameters") or {}
    full = (ropes.get(FULL) or {}) | (entries.get("rope_scaling") or {})
    windowed = ropes.get(SLIDING) or {}
    context = entries.get("max_position_embeddings", 131072)
    local = read_rope(windowed, entries.get("rope_local_base_freq") or 10_000.0, context)
    if "rope_scaling" in local:
        raise CheckpointError(
            "config.json scales the rotary positions of windowed layers, which this decoder does not compute."
        )
    return read_rope(full, entries.get("rope_theta") or 1_000_000.0, context) | {
        "window_rope_theta": local["rope_theta"]
    }


def _write_two_ropes(config: ModelConfig) -> Json:
    local = config.rope_theta if config.window_rope_theta is None else config.window_rope_theta
    full = write_rope(config.rope_theta, config.rope_scaling)
    ropes = {FULL: full, SLIDING: write_rope(local, None)}
    return {"rope_parameters": ropes, "rope_local_base_freq": local} | older_rope(config.rope_theta, full)


GEMMA = llama_like(
    "gemma", "GemmaForCausalLM", PRE_NORM_TABLE,
    keys=KEYS_1,
    always=ALWAYS_1,
    sections=(rope_section(),),
    unsupported=UNSUPPORTED,
)  # fmt: skip

GEMMA2 = llama_like(
    "gemma2", "Gemma2ForCausalLM", TABLE,
    keys=KEYS_2
    | {
        "attention_softcap": Key("attn_logit_softcapping", 50.0),
        "logit_softcap": Key("final_logit_softcapping", 30.0),
    },
    always=ALWAYS_2,
    sections=(rope_section(), _window_section(2)),
    unsupported=UNSUPPORTED,
)  # fmt: skip

GEMMA3 = llama_like(
    "gemma3_text", "Gemma3ForCausalLM", TABLE,
    keys=KEYS_2
    | {
        "attention_softcap": Key("attn_logit_softcapping", None),
        "logit_softcap": Key("final_logit_softcapping", None),
    },
    always=ALWAYS_2 | {"qk_norm": True},
    sections=(Section(_read_two_ropes, _write_two_ropes), _window_section(6)),
    unsupported=UNSUPPORTED,
)  # fmt: skip
