"""GPT-2: learned positions, layer norms, matrices stored as [in, out]."""

import re

from llm_jax.checkpoint.families.parts import BLOCK, activation_key
from llm_jax.checkpoint.family import Family, Key
from llm_jax.checkpoint.names import same, transposed

TABLE = (
    same("embedding_layer.token_embeddings.weight", "transformer.wte.weight"),
    same("embedding_layer.positional_encoding.pos_embedding.weight", "transformer.wpe.weight"),
    *(
        rule
        for param, stored, matrix in (
            ("norm1", "ln_1", same),
            ("self_attn.qkv_proj", "attn.c_attn", transposed),
            ("self_attn.out_proj", "attn.c_proj", transposed),
            ("norm2", "ln_2", same),
            ("mlp.fc1", "mlp.c_fc", transposed),
            ("mlp.fc2", "mlp.c_proj", transposed),
        )
        for rule in (
            matrix(BLOCK + f"{param}.weight", f"transformer.h.{{i}}.{stored}.weight"),
            same(BLOCK + f"{param}.bias", f"transformer.h.{{i}}.{stored}.bias"),
        )
    ),
    same("final_norm.weight", "transformer.ln_f.weight"),
    same("final_norm.bias", "transformer.ln_f.bias"),
    same("lm_head.weight", "lm_head.weight"),
)

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    ignored=re.compile(r"\.attn\.(bias|masked_bias)$"),  # the causal mask, which old files store
    table=lambda _: TABLE,
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("n_embd"),
        "num_layers": Key("n_layer"),
        "num_heads": Key("n_head"),
        "intermediate_size": Key("n_inner", None),
        "max_seq_len": Key("n_positions", 1024),
        "activation": activation_key("activation_function", "gelu_new"),
        "norm_eps": Key("layer_norm_epsilon", 1e-5),
        "tie_embeddings": Key("tie_word_embeddings", True),
        "embedding_dropout": Key("embd_pdrop", 0.1),
        "attention_dropout": Key("attn_pdrop", 0.1),
        "mlp_dropout": Key("resid_pdrop", 0.1),
    },
    always={"positions": "learned", "lm_head_bias": False, "embedding_scale": 1.0, "dropout": 0.0},
    unsupported={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
)
