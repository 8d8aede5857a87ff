"""Shared by many families: activations, rotary scaling, windows, and Llama's names."""

import math
from collections.abc import Callable
from typing import Any

from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import Rule, qkv_rows, same
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError

# Name in config.json -> name in ModelConfig. Of several names for one, a family's default is written, else the last.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "swish": "silu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


def activation_key(name: str, default: str) -> Key:
    names = {activation: entry for entry, activation in ACTIVATIONS.items()} | {ACTIVATIONS[default]: default}
    return Key(name, default, read=lambda entry: ACTIVATIONS.get(entry, entry), write=names.__getitem__)


# ---- rotary positions ----


def rotary_entries(entries: Json) -> Json:
    """The rotary parameters of a config.json, from where its writer put them, with the priorities of transformers 5.

    Version 5 writes rope_parameters; earlier ones, rope_theta and rope_scaling, which wins where both are there. The
    context of pre-training may stand beside them, and then wins.

    Raises CheckpointError where rope_scaling wins and nothing says its rope_theta.
    """
    scaling, parameters = entries.get("rope_scaling"), entries.get("rope_parameters")
    rope: Json = dict(scaling or parameters or {})
    if scaling and parameters and rope.get("rope_theta") is None and entries.get("rope_theta") is None:
        raise CheckpointError(
            "config.json has rope_scaling without rope_theta, and rope_parameters, whose rope_theta does not hold "
            "beside it. Put rope_theta into rope_scaling, or the scaling into rope_parameters."
        )
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = entries.get("rope_theta")
    if entries.get("original_max_position_embeddings") is not None:
        rope["original_max_position_embeddings"] = entries["original_max_position_embeddings"]
    return rope


def read_rope(rope: Json, theta: float, max_seq_len: int) -> Json:
    """rope_theta and rope_scaling from a dict of rotary parameters in config.json."""
    theta = float(rope.get("rope_theta") or theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "mrope"):  # mrope: three positions a token, which are equal in a text
        return {"rope_theta": theta}
    if kind == "linear":
        return {"rope_theta": theta, "rope_scaling": RopeScaling(kind="linear", factor=float(rope["factor"]))}
    original = int(rope.get("original_max_position_embeddings") or max_seq_len)
    if kind == "llama3":
        scaling = RopeScaling(
            kind="llama3",
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_seq_len=original,
        )
        return {"rope_theta": theta, "rope_scaling": scaling}
    if kind == "yarn":
        if not rope.get("truncate", True):
            raise CheckpointError("config.json asks for yarn with truncate: false, which this decoder does not have.")
        scaling = RopeScaling(
            kind="yarn",
            factor=float(rope.get("factor") or max_seq_len / original),
            original_max_seq_len=original,
            beta_fast=float(rope.get("beta_fast") or 32),
            beta_slow=float(rope.get("beta_slow") or 1),
            attention_factor=_yarn_magnitude(rope),
        )
        return {"rope_theta": theta, "rope_scaling": scaling}
    raise CheckpointError(
        f"config.json asks for rotary positions of the type {kind!r}; default, linear, llama3 and yarn work."
    )


def _yarn_magnitude(rope: Json) -> float | None:
    """From DeepSeek's two mscales, where config.json has them; None selects the formula of the paper."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return None
    growth = 0.1 * math.log(max(rope["factor"], 1.0))
    return (rope["mscale"] * growth + 1.0) / (rope["mscale_all_dim"] * growth + 1.0)


def write_rope(theta: float, scaling: RopeScaling | None) -> Json:
    """A dict of rotary parameters for config.json."""
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    rope: Json = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        rope |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        rope |= {"attention_factor": scaling.magnitude}
    if scaling.kind != "linear":
        rope |= {"original_max_position_embeddings": scaling.original_max_seq_len}
    return rope


def older_rope(theta: float, scaling: Json | None) -> Json:
    """rope_theta and rope_scaling, from which transformers 4 reads what is in rope_parameters too."""
    if scaling is None or scaling["rope_type"] == "default":
        return {"rope_theta": theta}
    return {"rope_theta": theta, "rope_scaling": {name: scaling[name] for name in scaling if name != "rope_theta"}}


def rope_section(default_theta: float = 10000.0) -> Section:
    """Rotary parameters where transformers 5 and 4 each look for them."""

    def read(entries: Json) -> Json:
        return read_rope(rotary_entries(entries), default_theta, entries.get("max_position_embeddings", 2048))

    def write(config: ModelConfig) -> Json:
        rope = write_rope(config.rope_theta, config.rope_scaling)
        return {"rope_parameters": rope} | older_rope(config.rope_theta, rope)

    return Section(read, write)


# ---- windows ----

SLIDING, FULL = "sliding_attention", "full_attention"


def _read_window(entries: Json) -> Json:
    return {"window_size": entries.get("sliding_window"), "window_layers": None}


# One window for all layers, or none.
WINDOW = Section(_read_window, lambda config: {"sliding_window": config.window_size})


def read_layer_types(entries: Json, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers have the window; `default` decides where config.json has no layer_types."""
    count = entries["num_hidden_layers"]
    types: list[Any] = entries.get("layer_types") or [SLIDING if default(i) else FULL for i in range(count)]
    unknown = next((name for name in types if name not in (SLIDING, FULL)), None)
    if unknown is not None:
        raise CheckpointError(f"config.json has a layer of the type {unknown!r}; {SLIDING} and {FULL} work.")
    return tuple(name == SLIDING for name in types)


def write_layer_types(config: ModelConfig) -> list[str]:
    return [FULL if config.window(i) is None else SLIDING for i in range(config.num_layers)]


# ---- Llama's names ----

LAYER = "model.layers.{i}."
BLOCK = "transformer_blocks.{i}."

ENDS = (
    same("embedding_layer.token_embeddings.weight", "model.embed_tokens.weight"),
    same("final_norm.weight", "model.norm.weight"),
    same("lm_head.weight", "lm_head.weight"),
)
ATTENTION = (
    *(
        Rule(
            params=(BLOCK + f"self_attn.qkv_proj.{part}",),
            stored=tuple(LAYER + f"self_attn.{x}_proj.{part}" for x in "qkv"),
            rows=qkv_rows,
        )
        for part in ("weight", "bias")
    ),
    same(BLOCK + "self_attn.q_norm.weight", LAYER + "self_attn.q_norm.weight"),
    same(BLOCK + "self_attn.k_norm.weight", LAYER + "self_attn.k_norm.weight"),
    same(BLOCK + "self_attn.out_proj.weight", LAYER + "self_attn.o_proj.weight"),
    same(BLOCK + "self_attn.out_proj.bias", LAYER + "self_attn.o_proj.bias"),
)
FEED_FORWARD = tuple(
    same(BLOCK + f"mlp.{param}.{part}", LAYER + f"mlp.{stored}.{part}")
    for param, stored in (("fc1", "gate_proj"), ("gate_proj", "up_proj"), ("fc2", "down_proj"))
    for part in ("weight", "bias")
)
PRE_NORMS = (
    same(BLOCK + "norm1.weight", LAYER + "input_layernorm.weight"),
    same(BLOCK + "norm2.weight", LAYER + "post_attention_layernorm.weight"),
)
