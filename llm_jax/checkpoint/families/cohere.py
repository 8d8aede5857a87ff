"""Command R and Command A: attention and feed-forward side by side behind one norm, and scaled logits."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    FEED_FORWARD,
    LAYER,
    QK_INTERLEAVED,
    alternating_windows,
)
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Key
from llm_jax.checkpoint.names import same

TABLE = (*ENDS, *ATTENTION, *FEED_FORWARD, same(BLOCK + "norm1.weight", LAYER + "input_layernorm.weight"))
COHERE_KEYS = {name: key for name, key in KEYS.items() if name != "head_dim"} | {
    "max_seq_len": Key("max_position_embeddings", 8192),
    "norm_eps": Key("layer_norm_eps", 1e-5),
    "tie_embeddings": Key("tie_word_embeddings", True),
    "logit_scale": Key("logit_scale", 0.0625),
    "qkv_bias": Key("attention_bias", False),
}
COHERE_ALWAYS = ALWAYS | {"norm": "layer_norm", "norm_bias": False, "parallel_residual": True, "shared_norm": True}

COHERE = llama_like(
    "cohere", "CohereForCausalLM", TABLE,
    keys=COHERE_KEYS,
    always=COHERE_ALWAYS,
    sections=(rope_section(500_000.0),),
    orders=QK_INTERLEAVED,
    unsupported={"use_qk_norm": False},
)  # fmt: skip

COHERE2 = llama_like(
    "cohere2", "Cohere2ForCausalLM", TABLE,
    keys=COHERE_KEYS,
    always=COHERE_ALWAYS,
    sections=(rope_section(), alternating_windows(4, rotated=True)),
    orders=QK_INTERLEAVED,
)  # fmt: skip
