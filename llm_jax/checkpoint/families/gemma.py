"""Gemma: scaled embeddings and norms; 2 and the text half of 3 with norms around each block, windows on most layers."""

from dataclasses import replace

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.llama import TABLE as PRE_NORM_TABLE
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    FEED_FORWARD,
    LAYER,
    activation_key,
    alternating_windows,
)
from llm_jax.checkpoint.families.rope import rope_section, two_ropes
from llm_jax.checkpoint.family import Key
from llm_jax.checkpoint.names import same

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
    sections=(rope_section(), alternating_windows(2)),
    unsupported=UNSUPPORTED,
)  # fmt: skip

GEMMA3 = llama_like(
    "gemma3_text", "Gemma3ForCausalLM", TABLE,
    keys=KEYS_2
    | {
        "attention_softcap": Key("attn_logit_softcapping", None),
        "logit_softcap": Key("final_logit_softcapping", None),
    },
    always=ALWAYS_2 | {"qk_norm": "head"},
    sections=(two_ropes(1_000_000.0, "rope_local_base_freq", 10_000.0), alternating_windows(6)),
    unsupported=UNSUPPORTED,
)  # fmt: skip
