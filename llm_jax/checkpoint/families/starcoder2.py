"""StarCoder 2: rotary positions with GPT-2's layer norms, biases and plain feed-forward."""

from llm_jax.checkpoint.families.llama import KEYS, llama_like
from llm_jax.checkpoint.families.parts import (
    ATTENTION,
    BLOCK,
    ENDS,
    LAYER,
    PRE_NORMS,
    WINDOW,
    activation_key,
)
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Key
from llm_jax.checkpoint.names import same

TABLE = (
    *ENDS,
    same("final_norm.bias", "model.norm.bias"),
    *PRE_NORMS,
    same(BLOCK + "norm1.bias", LAYER + "input_layernorm.bias"),
    same(BLOCK + "norm2.bias", LAYER + "post_attention_layernorm.bias"),
    *ATTENTION,
    *(
        same(BLOCK + f"mlp.{param}.{part}", LAYER + f"mlp.{stored}.{part}")
        for param, stored in (("fc1", "c_fc"), ("fc2", "c_proj"))
        for part in ("weight", "bias")
    ),
)

STARCODER2 = llama_like(
    "starcoder2", "Starcoder2ForCausalLM", TABLE,
    keys=KEYS
    | {
        "activation": activation_key("hidden_act", "gelu_pytorch_tanh"),
        "norm_eps": Key("norm_epsilon", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", True),
        "qkv_bias": Key("use_bias", True),
        "mlp_bias": Key("use_bias", True),
        "embedding_dropout": Key("embedding_dropout", 0.0),
        "attention_dropout": Key("attention_dropout", 0.0),
        "mlp_dropout": Key("residual_dropout", 0.0),
    },
    always={"positions": "rotary", "lm_head_bias": False, "embedding_scale": 1.0, "dropout": 0.0},
    sections=(rope_section(), WINDOW),
)  # fmt: skip
