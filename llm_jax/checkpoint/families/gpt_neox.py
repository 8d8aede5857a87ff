"""GPT-NeoX, GPT-J, Phi 1 and 2, Falcon: attention and feed-forward side by side, plain feed-forwards, layer norms."""

import math
import re

from llm_jax.checkpoint.families.parts import BLOCK, ENDS, LAYER, QK_INTERLEAVED, activation_key, attention, grouped
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Family, Json, Key, Section
from llm_jax.checkpoint.names import Rule, linear, same
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

ALWAYS = {"positions": "rotary", "embedding_scale": 1.0, "dropout": 0.0}
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|(attention|attn)\.(bias|masked_bias))$")


def _ends(embedding: str, norm: str, head: str) -> tuple[Rule, ...]:
    return (
        same("embedding_layer.token_embeddings.weight", f"{embedding}.weight"),
        *linear("final_norm", norm),
        *linear("lm_head", head),
    )


def _layer(at: str, **stored: str) -> tuple[Rule, ...]:
    """Weights and biases of a layer's parts, under a prefix."""
    return tuple(
        rule for part, name in stored.items() for rule in linear(BLOCK + part.replace("__", "."), f"{at}{name}")
    )


# ---- Phi 1 and 2 ----

PHI_TABLE = (
    *(rule for rule in ENDS if "norm" not in rule.params[0]),
    same("lm_head.bias", "lm_head.bias"),
    *linear("final_norm", "model.final_layernorm"),
    *attention(out="dense"),
    *_layer(LAYER, norm1="input_layernorm", mlp__fc1="mlp.fc1", mlp__fc2="mlp.fc2"),
)
PHI = Family(
    model_type="phi",
    architecture="PhiForCausalLM",
    table=lambda _: PHI_TABLE,
    prefix="model.",
    ignored=BUFFERS,
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "num_kv_heads": Key("num_key_value_heads", None),
        "intermediate_size": Key("intermediate_size"),
        "max_seq_len": Key("max_position_embeddings", 2048),
        "activation": activation_key("hidden_act", "gelu_new"),
        "norm_eps": Key("layer_norm_eps", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "embedding_dropout": Key("embd_pdrop", 0.0),
        "attention_dropout": Key("attention_dropout", 0.0),
        "mlp_dropout": Key("resid_pdrop", 0.0),
    },
    always=ALWAYS | {"parallel_residual": True, "shared_norm": True},
    sections=(rope_section(fraction=0.5),),
    unsupported={"qk_layernorm": False},
)


# ---- GPT-NeoX, Pythia ----

NEOX_ROPE = rope_section(fraction=0.25)


def _read_neox_rope(entries: Json) -> Json:
    """transformers 4 has its own names."""
    older = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    return NEOX_ROPE.read({name: entries[stored] for name, stored in older.items() if stored in entries} | entries)


def _write_neox_rope(config: ModelConfig) -> Json:
    return NEOX_ROPE.write(config) | {"rotary_emb_base": config.rope_theta, "rotary_pct": config.rope_fraction}


NEOX_LAYER = "gpt_neox.layers.{i}."
NEOX_TABLE = (
    *_ends("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
    *_layer(
        NEOX_LAYER, norm1="input_layernorm", norm2="post_attention_layernorm",
        self_attn__qkv_proj="attention.query_key_value", self_attn__out_proj="attention.dense",
        mlp__fc1="mlp.dense_h_to_4h", mlp__fc2="mlp.dense_4h_to_h",
    ),
)  # fmt: skip
GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    table=lambda _: NEOX_TABLE,
    prefix="gpt_neox.",
    ignored=BUFFERS,
    orders=(grouped(r".*\.query_key_value\.(weight|bias)"),),
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "intermediate_size": Key("intermediate_size"),
        "max_seq_len": Key("max_position_embeddings", 2048),
        "activation": activation_key("hidden_act", "gelu"),
        "norm_eps": Key("layer_norm_eps", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "parallel_residual": Key("use_parallel_residual", True),
        "qkv_bias": Key("attention_bias", True),
        "attention_dropout": Key("attention_dropout", 0.0),
        "mlp_dropout": Key("hidden_dropout", 0.0),
    },
    always=ALWAYS | {"lm_head_bias": False},
    sections=(Section(_read_neox_rope, _write_neox_rope),),
)


# ---- GPT-J ----


def _read_rotary_dim(entries: Json) -> Json:
    size, rotated = entries["n_embd"] // entries["n_head"], entries.get("rotary_dim", 64)
    if not rotated:
        raise CheckpointError("config.json says rotary_dim: null; a number works.")
    share = rotated / size
    return {"rope_fraction": share if int(size * share) == rotated else math.nextafter(share, 1.0)}


GPTJ_LAYER = "transformer.h.{i}."
GPTJ_TABLE = (
    *_ends("transformer.wte", "transformer.ln_f", "lm_head"),
    *attention(GPTJ_LAYER + "attn.", "out_proj"),
    *_layer(GPTJ_LAYER, norm1="ln_1", mlp__fc1="mlp.fc_in", mlp__fc2="mlp.fc_out"),
)
GPTJ = Family(
    model_type="gptj",
    architecture="GPTJForCausalLM",
    table=lambda _: GPTJ_TABLE,
    prefix="transformer.",
    ignored=BUFFERS,
    orders=QK_INTERLEAVED,
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("n_embd"),
        "num_layers": Key("n_layer"),
        "num_heads": Key("n_head"),
        "intermediate_size": Key("n_inner", None),
        "max_seq_len": Key("n_positions", 2048),
        "activation": activation_key("activation_function", "gelu_new"),
        "norm_eps": Key("layer_norm_epsilon", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "embedding_dropout": Key("embd_pdrop", 0.0),
        "attention_dropout": Key("attn_pdrop", 0.0),
        "mlp_dropout": Key("resid_pdrop", 0.0),
    },
    always=ALWAYS | {"parallel_residual": True, "shared_norm": True, "qkv_bias": False},
    sections=(Section(_read_rotary_dim, lambda config: {"rotary_dim": config.rotary_dim}),),
)


# ---- Falcon ----


def _read_falcon(entries: Json) -> Json:
    heads, newer = entries.get("num_attention_heads", entries.get("n_head")), entries.get("new_decoder_architecture")
    kv_heads = entries.get("num_kv_heads") if newer else 1 if entries.get("multi_query", True) else None
    norms = entries.get("num_ln_in_parallel_attn") or (2 if newer else 1)
    parallel = bool(newer or entries.get("parallel_attn", True))
    return {"num_kv_heads": kv_heads or heads, "parallel_residual": parallel, "shared_norm": parallel and norms == 1}


def _write_falcon(config: ModelConfig) -> Json:
    two_norms = config.parallel_residual and not config.shared_norm
    return {
        "new_decoder_architecture": two_norms or config.kv_heads not in (1, config.num_heads),
        "num_ln_in_parallel_attn": 2 if two_norms else 1,
        "multi_query": config.kv_heads == 1,
        "num_kv_heads": config.kv_heads,
        "parallel_attn": config.parallel_residual,
        "alibi": False,
    }


def _falcon_table(config: ModelConfig) -> tuple[Rule, ...]:
    two_norms = config.parallel_residual and not config.shared_norm
    norms = ("ln_attn", "ln_mlp") if two_norms else ("input_layernorm", "post_attention_layernorm")
    return (
        *_ends("transformer.word_embeddings", "transformer.ln_f", "lm_head"),
        *_layer(
            "transformer.h.{i}.", norm1=norms[0], norm2=norms[1],
            self_attn__qkv_proj="self_attention.query_key_value", self_attn__out_proj="self_attention.dense",
            mlp__fc1="mlp.dense_h_to_4h", mlp__fc2="mlp.dense_4h_to_h",
        ),
    )  # fmt: skip


FALCON = Family(
    model_type="falcon",
    architecture="FalconForCausalLM",
    table=_falcon_table,
    prefix="transformer.",
    ignored=BUFFERS,
    orders=(grouped(r".*\.query_key_value\.(weight|bias)"),),
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("hidden_size", aliases=("n_embed",)),
        "num_layers": Key("num_hidden_layers", aliases=("n_layer",)),
        "num_heads": Key("num_attention_heads", aliases=("n_head",)),
        "intermediate_size": Key("ffn_hidden_size", None),
        "max_seq_len": Key("max_position_embeddings", 2048),
        "activation": activation_key("activation", "gelu"),
        "norm_eps": Key("layer_norm_epsilon", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", True),
        "qkv_bias": Key("bias", False),
        "mlp_bias": Key("bias", False),
    },
    always=ALWAYS | {"lm_head_bias": False},
    sections=(rope_section(), Section(_read_falcon, _write_falcon)),
    unsupported={"alibi": False},
)
