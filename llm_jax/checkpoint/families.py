"""The families themselves, as data. A new one is a Family below and a place in FAMILIES."""

import dataclasses
import re
from difflib import get_close_matches

from llm_jax.checkpoint.family import Family, Json, Key, Section
from llm_jax.checkpoint.names import Rule, own_table, qkv_rows, same, transposed
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError

# Their name -> ours. Where two of theirs are one of ours, the last is the one that is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "swish": "silu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


def family_of_config(theirs: Json) -> Family:
    """The family that a config.json names. Raises CheckpointError if it is none of ours."""
    model_type = theirs.get("model_type")
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise CheckpointError(f"config.json has the model_type {model_type!r}; known families are {known}.")


def family_for(config: ModelConfig) -> Family:
    """The first family that can express this architecture; our own expresses all."""
    return next(family for family in FAMILIES if family.expresses(config))


def _read_rope(theirs: Json) -> Json:
    # transformers 5 keeps all of it in rope_parameters; before, rope_theta and rope_scaling stood apart.
    rope: Json = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    theta = float(rope["rope_theta"] if "rope_theta" in rope else theirs.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind == "linear":
        return {"rope_theta": theta, "rope_scaling": RopeScaling(kind="linear", factor=float(rope["factor"]))}
    if kind == "llama3":
        scaling = RopeScaling(
            kind="llama3",
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_seq_len=int(rope["original_max_position_embeddings"]),
        )
        return {"rope_theta": theta, "rope_scaling": scaling}
    raise CheckpointError(
        f"config.json asks for rotary positions of the type {kind!r}; default, linear and llama3 work."
    )


def _write_rope(config: ModelConfig) -> Json:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}
    rope: Json = {"rope_type": scaling.kind, "rope_theta": config.rope_theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return {"rope_parameters": rope}


def _read_own(theirs: Json) -> Json:
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    ours = {name: value for name, value in theirs.items() if name not in BOOKKEEPING}
    for name in ours:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise CheckpointError(f"config.json has the unknown entry {name}{hint}")
    if ours.get("rope_scaling") is not None:
        ours["rope_scaling"] = RopeScaling(**ours["rope_scaling"])
    if ours.get("window_layers") is not None:
        ours["window_layers"] = tuple(ours["window_layers"])
    return ours


# Entries of config.json that say nothing about the architecture.
BOOKKEEPING = frozenset(
    {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
)

ACTIVATION = {
    "read": lambda name: ACTIVATIONS.get(name, name),
    "write": lambda name: {ours: theirs for theirs, ours in ACTIVATIONS.items()}[name],
}

OWN = Family(
    model_type="llm_decoder",
    architecture="DecoderModel",
    table=own_table,
    sections=(Section(_read_own, ModelConfig.to_dict),),
    ignored=re.compile(r"^embedding_layer\.positional_encoding\.pe$"),
)

LLAMA_TABLE = (
    same("embedding_layer.token_embeddings.weight", "model.embed_tokens.weight"),
    same("transformer_blocks.{i}.norm1.weight", "model.layers.{i}.input_layernorm.weight"),
    *(
        Rule(
            ours=(f"transformer_blocks.{{i}}.self_attn.qkv_proj.{part}",),
            theirs=tuple(f"model.layers.{{i}}.self_attn.{x}_proj.{part}" for x in "qkv"),
            rows=qkv_rows,
        )
        for part in ("weight", "bias")
    ),
    same("transformer_blocks.{i}.self_attn.out_proj.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    same("transformer_blocks.{i}.self_attn.out_proj.bias", "model.layers.{i}.self_attn.o_proj.bias"),
    same("transformer_blocks.{i}.norm2.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    *(
        same(f"transformer_blocks.{{i}}.mlp.{ours}.{part}", f"model.layers.{{i}}.mlp.{theirs}.{part}")
        for ours, theirs in (("fc1", "gate_proj"), ("gate_proj", "up_proj"), ("fc2", "down_proj"))
        for part in ("weight", "bias")
    ),
    same("final_norm.weight", "model.norm.weight"),
    same("lm_head.weight", "lm_head.weight"),
)

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    ignored=re.compile(r"rotary_emb\.inv_freq$"),
    table=lambda _: LLAMA_TABLE,
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "num_kv_heads": Key("num_key_value_heads", None),
        "head_dim": Key("head_dim", None),
        "intermediate_size": Key("intermediate_size"),
        "max_seq_len": Key("max_position_embeddings", 2048),
        "activation": Key("hidden_act", "silu", **ACTIVATION),
        "norm_eps": Key("rms_norm_eps", 1e-6),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "qkv_bias": Key("attention_bias", False),
        "mlp_bias": Key("mlp_bias", False),
    },
    always={
        "positions": "rotary",
        "norm": "rms_norm",
        "use_glu": True,
        "lm_head_bias": False,
        "embedding_scale": 1.0,
        "dropout": 0.0,
    },
    sections=(Section(_read_rope, _write_rope),),
)

GPT2_TABLE = (
    same("embedding_layer.token_embeddings.weight", "transformer.wte.weight"),
    same("embedding_layer.positional_encoding.pos_embedding.weight", "transformer.wpe.weight"),
    *(
        rule
        for ours, theirs, matrix in (
            ("norm1", "ln_1", same),
            ("self_attn.qkv_proj", "attn.c_attn", transposed),
            ("self_attn.out_proj", "attn.c_proj", transposed),
            ("norm2", "ln_2", same),
            ("mlp.fc1", "mlp.c_fc", transposed),
            ("mlp.fc2", "mlp.c_proj", transposed),
        )
        for rule in (
            matrix(f"transformer_blocks.{{i}}.{ours}.weight", f"transformer.h.{{i}}.{theirs}.weight"),
            same(f"transformer_blocks.{{i}}.{ours}.bias", f"transformer.h.{{i}}.{theirs}.bias"),
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
    table=lambda _: GPT2_TABLE,
    keys={
        "vocab_size": Key("vocab_size"),
        "hidden_size": Key("n_embd"),
        "num_layers": Key("n_layer"),
        "num_heads": Key("n_head"),
        "intermediate_size": Key("n_inner", None),
        "max_seq_len": Key("n_positions", 1024),
        "activation": Key("activation_function", "gelu_new", **ACTIVATION),
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

FAMILIES = (LLAMA, GPT2, OWN)  # the order in which a home is looked for when a model is saved
