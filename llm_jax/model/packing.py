"""A model's linear maps, packed for the CPU's kernels."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from llm_jax.kernels import Kind, Level, pack, pack_gated
from llm_jax.model.model import Model

TABLE = "embedding_layer.token_embeddings.weight"


def pack_model(model: Model, kind: Kind, *, level: Level | None = None) -> Model:
    """The same model with every linear map packed; experts and routers stay as they are.

    A gate is packed into fc1, and `gate_proj.weight` is left with no rows. A tied head becomes one of its own,
    since the embedding looks up rows of the plain table: the configuration says so.

    Args:
        kind: what the weights are kept in.
        level: which kernels read them; the best of this machine unless given.
    """
    params: dict[str, Any] = dict(model.params)
    config = model.config
    if config.tie_embeddings:
        config = replace(config, tie_embeddings=False, lm_head_bias=False)
        params["lm_head.weight"] = params[TABLE]
    names = ["lm_head.weight"]
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}."
        names += [block + "self_attn.qkv_proj.weight", block + "self_attn.out_proj.weight"]
        if config.use_moe:
            continue
        names.append(block + "mlp.fc2.weight")
        first, gate = block + "mlp.fc1.weight", block + "mlp.gate_proj.weight"
        if config.use_glu:
            params[first] = pack_gated(params[first], params[gate], kind, level=level)
            params[gate] = jnp.zeros((0, config.hidden_size))
        else:
            names.append(first)
    for name in names:
        params[name] = pack(params[name], kind, level=level)
    return replace(model, config=config, params=params)
