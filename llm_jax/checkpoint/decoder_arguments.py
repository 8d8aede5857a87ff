"""DecoderModel, the PyTorch model of docs/usage.md: its arguments as a ModelConfig; arguments from a state_dict."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.checkpoint.families import ACTIVATIONS
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.model import sinusoidal_table

PE = "embedding_layer.positional_encoding.pe"
LEARNED = "embedding_layer.positional_encoding.pos_embedding.weight"

NORMS = {"LayerNorm": "layer_norm", "layer_norm": "layer_norm", "RMSNorm": "rms_norm", "rms_norm": "rms_norm"}

# Keyword argument -> the equivalent field of ModelConfig.
FIELDS = {
    name: name
    for name in (
        "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "max_seq_len", "intermediate_size",
        "norm_eps", "norm_first", "is_causal", "padding_idx", "qkv_bias", "mlp_bias", "lm_head_bias", "use_glu",
        "use_moe", "num_experts", "top_k", "window_size", "rope_theta", "gradient_checkpointing",
    )
} | {
    "embedding_dropout_p": "embedding_dropout",
    "attn_dropout_p": "attention_dropout",
    "mlp_dropout_p": "mlp_dropout",
}  # fmt: skip
# Arguments that determine a field together, or do not affect the architecture.
COMBINED = (
    "pos_encoding_learned", "use_rope", "use_alibi", "mlp_activation", "norm_type", "norm_impl",
    "attn_impl", "mlp_impl", "device", "dtype",
)  # fmt: skip


def decoder_kwargs_to_config(arguments: Mapping[str, Any]) -> ModelConfig:
    """The architecture of `DecoderModel(**arguments)`.

    `norm_type` may be a name, a class or an instance; `device` and `dtype` do not affect the architecture.

    Raises:
        ConfigError: an argument is unknown, missing, out of range, or contradicts another one.
    """
    for name in arguments:
        if name not in FIELDS and name not in COMBINED:
            raise ConfigError(f"DecoderModel has no argument {name!r}; it knows {', '.join((*FIELDS, *COMBINED))}.")
    for name in ("vocab_size", "hidden_size", "num_layers", "num_heads"):
        if name not in arguments:
            raise ConfigError(f"DecoderModel needs {name}.")
    _only(arguments, "attn_impl", ("mha",))
    _only(arguments, "mlp_impl", ("mlp", "moe") if arguments.get("use_moe") else ("mlp",))
    fields = {field: arguments[name] for name, field in FIELDS.items() if name in arguments}
    return ModelConfig(
        **fields,
        positions=_positions(arguments),
        norm=_norm(arguments),
        activation=_activation(arguments.get("mlp_activation", "gelu")),
    )


def _only(arguments: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    if arguments.get(name, allowed[0]) not in allowed:
        raise ConfigError(f"{name} is {arguments[name]!r}; what can be computed here is {' or '.join(allowed)}.")


def _positions(arguments: Mapping[str, Any]) -> Any:
    chosen = [
        (argument, positions)
        for argument, positions in (
            ("pos_encoding_learned", "learned"),
            ("use_rope", "rotary"),
            ("use_alibi", "alibi"),
        )
        if arguments.get(argument)
    ]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(name for name, _ in chosen)} exclude each other: a model has one of them.")
    return chosen[0][1] if chosen else "sinusoidal"


def _norm(arguments: Mapping[str, Any]) -> Any:
    given = arguments.get("norm_type", "LayerNorm")
    name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    impl = arguments.get("norm_impl", "layer_norm")
    for spelling in (name, impl):
        if spelling not in NORMS:
            raise ConfigError(f"{spelling!r} is no known norm; norm_type is LayerNorm or RMSNorm.")
    return "rms_norm" if "rms_norm" in (NORMS[name], NORMS[impl]) else "layer_norm"


def _activation(name: Any) -> Any:
    if name not in ACTIVATIONS:
        raise ConfigError(f"mlp_activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def decoder_model_buffers(config: ModelConfig) -> dict[str, np.ndarray]:
    """The buffers in a state_dict of DecoderModel: the sinusoidal table [1, S, D], with such positions."""
    if config.positions != "sinusoidal":
        return {}
    return {PE: sinusoidal_table(config.max_seq_len, config.hidden_size)[None]}


def check_positions(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises CheckpointError if the stored sinusoidal table [1, S, D] differs from the computed one."""
    if PE not in tensors or config.positions != "sinusoidal":
        return
    stored = np.asarray(tensors[PE], np.float32)
    expected = sinusoidal_table(config.max_seq_len, config.hidden_size)[None]
    # A half-precision table is off by up to 2^-9; another table differs by about one.
    if stored.shape != expected.shape or np.abs(stored - expected).max() > 0.01:
        raise CheckpointError(
            f"{PE} has the shape {list(stored.shape)} and is not the sinusoidal table {list(expected.shape)} of this "
            "architecture: max_seq_len or hidden_size differ, or the model used other positions."
        )


def inferred_arguments(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The DecoderModel arguments that the shapes of its state_dict determine; the numbers of heads are not among them.

    Raises CheckpointError if the names are not DecoderModel's.
    """
    table = tensors.get("embedding_layer.token_embeddings.weight")
    if table is None:
        raise CheckpointError(
            "These are not the documented names (no embedding_layer.token_embeddings.weight), and no config.json "
            f"says what else they are. The file holds {', '.join(list(tensors)[:3])} …"
        )
    arguments: dict[str, Any] = {"vocab_size": table.shape[0], "hidden_size": table.shape[1]}
    numbers = [int(m[1]) for name in tensors if (m := re.match(r"transformer_blocks\.(\d+)\.", name))]
    arguments["num_layers"] = max(numbers, default=-1) + 1
    block = "transformer_blocks.0."
    for name in (LEARNED, PE):
        if name in tensors:
            arguments["max_seq_len"] = tensors[name].shape[-2]
    arguments["pos_encoding_learned"] = LEARNED in tensors
    if block + "mlp.fc1.weight" in tensors:
        arguments["intermediate_size"] = tensors[block + "mlp.fc1.weight"].shape[0]
    arguments |= {
        "use_glu": block + "mlp.gate_proj.weight" in tensors,
        "norm_type": "LayerNorm" if block + "norm1.bias" in tensors else "RMSNorm",
        "norm_first": "final_norm.weight" in tensors,
        "qkv_bias": block + "self_attn.qkv_proj.bias" in tensors,
        "mlp_bias": block + "mlp.fc1.bias" in tensors,
        "lm_head_bias": "lm_head.bias" in tensors,
    }
    return arguments


def model_json_advice(tensors: Mapping[str, np.ndarray]) -> str:
    """For an error message: the model.json that a torch file without one needs."""
    known = json.dumps(inferred_arguments(tensors))
    return (
        "A state_dict does not say how many heads the model has. Write a model.json beside it with the arguments of "
        f'DecoderModel; the shapes give {known}; add "num_heads", and "num_kv_heads", "mlp_activation" and the like '
        "where they are not the defaults."
    )
