"""OLMo 2 and 3, EXAONE 4: norms behind each sublayer alone, and norms on queries and keys."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import ATTENTION, BLOCK, ENDS, FEED_FORWARD, LAYER, alternating_windows
from llm_jax.checkpoint.families.rope import rope_section, two_ropes
from llm_jax.checkpoint.family import Key
from llm_jax.checkpoint.names import same

TABLE = (
    *ENDS,
    *ATTENTION,
    *FEED_FORWARD,
    same(BLOCK + "post_attn_norm.weight", LAYER + "post_attention_layernorm.weight"),
    same(BLOCK + "post_mlp_norm.weight", LAYER + "post_feedforward_layernorm.weight"),
)
POST_NORMS = ALWAYS | {"sandwich_norm": True, "input_norm": False}
OLMO_KEYS = {name: key for name, key in KEYS.items() if name != "head_dim"} | {
    "norm_eps": Key("rms_norm_eps", 1e-5),
    "qkv_bias": Key("attention_bias", False),
}

OLMO2 = llama_like(
    "olmo2", "Olmo2ForCausalLM", TABLE,
    keys=OLMO_KEYS,
    always=POST_NORMS | {"qk_norm": "width"},
    sections=(rope_section(),),
)  # fmt: skip

OLMO3 = llama_like(
    "olmo3", "Olmo3ForCausalLM", TABLE,
    keys=OLMO_KEYS,
    always=POST_NORMS | {"qk_norm": "width"},
    sections=(two_ropes(500_000.0), alternating_windows(4)),
)  # fmt: skip

EXAONE4 = llama_like(
    "exaone4", "Exaone4ForCausalLM", TABLE,
    keys=KEYS | {"norm_eps": Key("rms_norm_eps", 1e-5)},
    always=POST_NORMS | {"qk_norm": "head"},
    sections=(rope_section(), alternating_windows(4, rotated=True)),
)  # fmt: skip
