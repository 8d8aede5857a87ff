"""GLM 4: half of each head rotated, pairs side by side; the later one with norms around each sublayer."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import ATTENTION, BLOCK, ENDS, FUSED_GATED, LAYER, PRE_NORMS, QK_INTERLEAVED
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Key
from llm_jax.checkpoint.names import same

TABLE = (*ENDS, *PRE_NORMS, *ATTENTION, *FUSED_GATED)
GLM_KEYS = KEYS | {
    "head_dim": Key("head_dim", 128),
    "norm_eps": Key("rms_norm_eps", 1.5625e-7),
    "qkv_bias": Key("attention_bias", True),
}

GLM = llama_like(
    "glm", "GlmForCausalLM", TABLE,
    keys=GLM_KEYS,
    always=ALWAYS | {"out_bias": False},
    sections=(rope_section(fraction=0.5),),
    orders=QK_INTERLEAVED,
)  # fmt: skip

GLM4 = llama_like(
    "glm4", "Glm4ForCausalLM",
    (
        *TABLE,
        same(BLOCK + "post_attn_norm.weight", LAYER + "post_self_attn_layernorm.weight"),
        same(BLOCK + "post_mlp_norm.weight", LAYER + "post_mlp_layernorm.weight"),
    ),
    keys=GLM_KEYS,
    always=ALWAYS | {"out_bias": False, "sandwich_norm": True},
    sections=(rope_section(fraction=0.5),),
    orders=QK_INTERLEAVED,
)  # fmt: skip
