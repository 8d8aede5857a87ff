"""Llama with one thing changed: layers that do not rotate, multipliers, rotated pairs side by side, norms, no gate."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, TABLE, llama_like
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    FEED_FORWARD,
    LAYER,
    PRE_NORMS,
    QK_INTERLEAVED,
    SLIDING,
    UNGATED,
    activation_key,
    attention,
    read_layer_types,
    write_layer_types,
)
from llm_jax.checkpoint.families.rope import rope_section, rotary_entries
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import same
from llm_jax.config import ModelConfig

BIASES = {"qkv_bias": Key("attention_bias", False), "mlp_bias": Key("mlp_bias", False)}
WITHOUT_HEAD_DIM = {name: key for name, key in KEYS.items() if name != "head_dim"}


# ---- SmolLM 3: every fourth layer has no positions ----


def _read_smollm3_layers(entries: Json) -> Json:
    count, every = entries["num_hidden_layers"], entries.get("no_rope_layer_interval", 4)
    rotated = entries.get("no_rope_layers") or [(i + 1) % every != 0 for i in range(count)]
    windowed = read_layer_types(entries, lambda i: bool(entries.get("use_sliding_window")) and not rotated[i])
    window = entries.get("sliding_window") if any(windowed) else None
    return {"rope_layers": tuple(map(bool, rotated)), "window_size": window, "window_layers": windowed}


def _write_smollm3_layers(config: ModelConfig) -> Json:
    types = write_layer_types(config)
    return {
        "no_rope_layers": [int(config.rotates(i)) for i in range(config.num_layers)],
        "layer_types": types,
        "use_sliding_window": SLIDING in types,
        "sliding_window": config.window_size,
    }


SMOLLM3 = llama_like(
    "smollm3", "SmolLM3ForCausalLM", TABLE,
    keys=WITHOUT_HEAD_DIM | BIASES | {"tie_embeddings": Key("tie_word_embeddings", True)},
    always=ALWAYS,
    sections=(rope_section(2_000_000.0), Section(_read_smollm3_layers, _write_smollm3_layers)),
)  # fmt: skip


# ---- Granite: multipliers ----


def inverse(value: float) -> float:
    """1 / value, as the number of few digits whose inverse `value` is, where there is one."""
    few = round(1 / value, 6)
    return few if few and 1 / few == value else 1 / value


GRANITE = llama_like(
    "granite", "GraniteForCausalLM", TABLE,
    keys=WITHOUT_HEAD_DIM
    | BIASES
    | {
        "embedding_scale": Key("embedding_multiplier", 1.0),
        "logit_scale": Key("logits_scaling", 1.0, read=lambda value: 1 / value, write=inverse),
        "residual_scale": Key("residual_multiplier", 1.0),
        "attention_scale": Key("attention_multiplier", 1.0),
    },
    always={name: value for name, value in ALWAYS.items() if name != "embedding_scale"},
    sections=(rope_section(),),
)  # fmt: skip


# ---- the same function as Llama, with other names or another order of rows ----

ERNIE4_5 = llama_like(
    "ernie4_5", "Ernie4_5ForCausalLM", TABLE,
    keys=KEYS
    | {
        "head_dim": Key("head_dim", 128),
        "norm_eps": Key("rms_norm_eps", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", True),
        "qkv_bias": Key("use_bias", False),
        "mlp_bias": Key("use_bias", False),
    },
    always=ALWAYS,
    sections=(rope_section(500_000.0),),
    orders=QK_INTERLEAVED,
)  # fmt: skip

HELIUM = llama_like(
    "helium", "HeliumForCausalLM", TABLE,
    keys=KEYS
    | {
        "head_dim": Key("head_dim", 128),
        "norm_eps": Key("rms_norm_eps", 1e-8),
        "qkv_bias": Key("attention_bias", False),
    },
    always=ALWAYS | {"out_bias": False},
    sections=(rope_section(100_000.0),),
    orders=QK_INTERLEAVED,
)  # fmt: skip

SEED_OSS = llama_like(
    "seed_oss", "SeedOssForCausalLM", TABLE,
    keys=KEYS
    | {
        "head_dim": Key("head_dim", 128),
        "qkv_bias": Key("attention_bias", True),
        "out_bias": Key("attention_out_bias", False),
        "mlp_bias": Key("mlp_bias", False),
    },
    always=ALWAYS,
    sections=(rope_section(),),
)  # fmt: skip


# ---- other feed-forwards and norms ----

ARCEE = llama_like(
    "arcee", "ArceeForCausalLM", (*ENDS, *PRE_NORMS, *ATTENTION, *UNGATED),
    keys=KEYS | BIASES | {"activation": activation_key("hidden_act", "relu2"), "norm_eps": Key("rms_norm_eps", 1e-5)},
    always=ALWAYS | {"use_glu": False},
    sections=(rope_section(),),
)  # fmt: skip

LAYER_NORM_BIASES = tuple(
    same(param + ".bias", stored + ".bias")
    for param, stored in (
        ("final_norm", "model.norm"),
        (BLOCK + "norm1", LAYER + "input_layernorm"),
        (BLOCK + "norm2", LAYER + "post_attention_layernorm"),
    )
)

NEMOTRON = llama_like(
    "nemotron", "NemotronForCausalLM", (*ENDS, *PRE_NORMS, *LAYER_NORM_BIASES, *ATTENTION, *UNGATED),
    keys=KEYS | BIASES | {"activation": activation_key("hidden_act", "relu2"), "norm_eps": Key("norm_eps", 1e-5)},
    always=ALWAYS | {"norm": "layer_norm", "norm_offset": 1.0, "use_glu": False},
    sections=(rope_section(fraction=0.5),),
)  # fmt: skip

STABLELM = llama_like(
    "stablelm", "StableLmForCausalLM", (*ENDS, *PRE_NORMS, *LAYER_NORM_BIASES, *ATTENTION, *FEED_FORWARD),
    keys=WITHOUT_HEAD_DIM
    | {
        "norm_eps": Key("layer_norm_eps", 1e-5),
        "qkv_bias": Key("use_qkv_bias", False),
        "parallel_residual": Key("use_parallel_residual", False),
        "shared_norm": Key("use_parallel_residual", False),
    },
    always=ALWAYS | {"norm": "layer_norm", "out_bias": False},
    sections=(rope_section(fraction=0.25),),
    unsupported={"qk_layernorm": False},
)  # fmt: skip


# ---- Hunyuan: norms on query and key heads behind their rotation, and a base that grows with `alpha` ----

HUNYUAN_ROPE = rope_section()


def _read_hunyuan_rope(entries: Json) -> Json:
    fields = HUNYUAN_ROPE.read(entries)
    alpha, size = rotary_entries(entries).get("alpha"), entries.get("head_dim")
    if alpha:
        size = size or entries["hidden_size"] // entries["num_attention_heads"]
        fields["rope_theta"] *= alpha ** (size / (size - 2))
    return fields


HUNYUAN_DENSE = llama_like(
    "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM",
    (
        *ENDS, *PRE_NORMS, *attention(), *FEED_FORWARD,
        same(BLOCK + "self_attn.q_norm.weight", LAYER + "self_attn.query_layernorm.weight"),
        same(BLOCK + "self_attn.k_norm.weight", LAYER + "self_attn.key_layernorm.weight"),
    ),
    keys=KEYS | {"norm_eps": Key("rms_norm_eps", 1e-5), "qkv_bias": Key("attention_bias", False)},
    always=ALWAYS | {"qk_norm": "rotated_head"},
    sections=(Section(_read_hunyuan_rope, HUNYUAN_ROPE.write),),
)  # fmt: skip
