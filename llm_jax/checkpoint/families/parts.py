"""Shared by many families: activations, orders of rows, windows, and Llama's names."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_jax.checkpoint.family import Json, Key, RowOrder, Section
from llm_jax.checkpoint.names import Rule, linear, qkv_rows, same
from llm_jax.config import ModelConfig
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


# ---- order of rows ----


def interleaved(names: str) -> RowOrder:
    """Rotated pairs are neighbouring rows of each head; this decoder's are the halves of what it rotates.

    Args:
        names: a regular expression for the tensors, whose group `head` is q or k.
    """

    def order(config: ModelConfig, match: re.Match[str]) -> np.ndarray:
        heads = config.num_heads if match["head"] == "q" else config.kv_heads
        rows = np.arange(heads * config.head_size).reshape(heads, -1)
        rotated, rest = np.split(rows, [config.rotary_dim], axis=1)
        pairs = rotated.reshape(heads, 2, -1).swapaxes(1, 2).reshape(rotated.shape)
        return np.concatenate([pairs, rest], axis=1).reshape(-1)

    return RowOrder(re.compile(names), order)


QK_INTERLEAVED = (interleaved(r".*\.(?P<head>[qk])_proj\.(weight|bias)"),)


def grouped(names: str) -> RowOrder:
    """q, k and v fused key head by key head: its queries, then its key and its value."""

    def order(config: ModelConfig, _: re.Match[str]) -> np.ndarray:
        N, K, H = config.num_heads, config.kv_heads, config.head_size
        q, k, v = np.split(np.arange((N + 2 * K) * H).reshape(-1, H), [N, N + K])
        return np.concatenate([q.reshape(K, -1, H), k[:, None], v[:, None]], axis=1).reshape(-1)

    return RowOrder(re.compile(names), order)


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


def alternating_windows(every: int, size: int = 4096, *, rotated: bool = False) -> Section:
    """Every so manieth layer has full attention, unless config.json says otherwise; the others have the window.

    Args:
        size: of the window, by default.
        rotated: only layers with a window have rotary positions; all where there is no window.
    """

    def read(entries: Json) -> Json:
        step = entries.get("sliding_window_pattern") or entries.get("_sliding_window_pattern") or every
        window = entries.get("sliding_window", size)
        layers = read_layer_types(entries, lambda i: window is not None and (i + 1) % step != 0)
        fields = {"window_size": window if any(layers) else None, "window_layers": layers}
        return fields | ({"rope_layers": layers} if rotated and window is not None else {})

    def write(config: ModelConfig) -> Json:
        return {"sliding_window": config.window_size, "layer_types": write_layer_types(config)}

    return Section(read, write)


# ---- Llama's names ----

LAYER = "model.layers.{i}."
BLOCK = "transformer_blocks.{i}."

ENDS = (
    same("embedding_layer.token_embeddings.weight", "model.embed_tokens.weight"),
    same("final_norm.weight", "model.norm.weight"),
    same("lm_head.weight", "lm_head.weight"),
)


def attention(at: str = LAYER + "self_attn.", out: str = "o_proj") -> tuple[Rule, ...]:
    """The linear maps of attention, under a prefix."""
    return (
        *(
            Rule(
                params=(BLOCK + f"self_attn.qkv_proj.{part}",),
                stored=tuple(at + f"{x}_proj.{part}" for x in "qkv"),
                rows=qkv_rows,
            )
            for part in ("weight", "bias")
        ),
        *linear(BLOCK + "self_attn.out_proj", at + out),
    )


ATTENTION = (
    *attention(),
    same(BLOCK + "self_attn.q_norm.weight", LAYER + "self_attn.q_norm.weight"),
    same(BLOCK + "self_attn.k_norm.weight", LAYER + "self_attn.k_norm.weight"),
)
FEED_FORWARD = (
    *linear(BLOCK + "mlp.fc1", LAYER + "mlp.gate_proj"),
    *linear(BLOCK + "mlp.gate_proj", LAYER + "mlp.up_proj"),
    *linear(BLOCK + "mlp.fc2", LAYER + "mlp.down_proj"),
)
UNGATED = (*linear(BLOCK + "mlp.fc1", LAYER + "mlp.up_proj"), *linear(BLOCK + "mlp.fc2", LAYER + "mlp.down_proj"))
PRE_NORMS = (
    same(BLOCK + "norm1.weight", LAYER + "input_layernorm.weight"),
    same(BLOCK + "norm2.weight", LAYER + "post_attention_layernorm.weight"),
)
FUSED_GATED = (
    Rule((BLOCK + "mlp.fc1.weight", BLOCK + "mlp.gate_proj.weight"), (LAYER + "mlp.gate_up_proj.weight",)),
    same(BLOCK + "mlp.fc2.weight", LAYER + "mlp.down_proj.weight"),
)
