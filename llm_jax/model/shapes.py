"""The parameters of an architecture: their names and shapes, as `Decoder` has them and checkpoints hold them.

Written down a second time, because a process that loads weights needs the shapes, and the modules need Flax, which
takes 0.3 s to import; a test holds the two together.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from llm_jax.config import ModelConfig

_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def param_shapes(config: ModelConfig, dtype: jnp.dtype | str = jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    """The names and shapes that a checkpoint of this architecture holds; computes nothing."""
    return {name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for name, shape in _decoder(config)}


def _decoder(config: ModelConfig) -> _Shapes:
    V, D = config.vocab_size, config.hidden_size
    if config.positions == "learned":
        yield "embedding_layer.positional_encoding.pos_embedding.weight", (config.max_seq_len, D)
    yield "embedding_layer.token_embeddings.weight", (V, D)
    if config.norm_first:
        yield from _norm("final_norm", config)
    if not config.tie_embeddings:
        yield from _linear("lm_head", (V, D), bias=config.lm_head_bias)
    for i in range(config.num_layers):
        yield from _block(f"transformer_blocks.{i}", config)


def _block(path: str, config: ModelConfig) -> _Shapes:
    D, F, E = config.hidden_size, config.ffn_size, config.num_experts
    N, K, H = config.num_heads, config.kv_heads, config.head_size
    if config.use_moe:
        yield from _linear(f"{path}.mlp.router", (E, D), bias=False)
    mlp, experts = (f"{path}.mlp.experts", (E,)) if config.use_moe else (f"{path}.mlp", ())
    yield from _linear(f"{mlp}.fc1", (*experts, F, D), bias=config.mlp_bias)
    if config.use_glu:
        yield from _linear(f"{mlp}.gate_proj", (*experts, F, D), bias=config.mlp_bias)
    yield from _linear(f"{mlp}.fc2", (*experts, D, F), bias=config.mlp_bias)
    for name in ("norm1", "norm2", *(("post_attn_norm", "post_mlp_norm") if config.sandwich_norm else ())):
        yield from _norm(f"{path}.{name}", config)
    yield from _linear(f"{path}.self_attn.qkv_proj", ((N + 2 * K) * H, D), bias=config.qkv_bias)
    yield from _linear(f"{path}.self_attn.out_proj", (D, N * H), bias=config.has_out_bias)
    if config.qk_norm:
        yield f"{path}.self_attn.q_norm.weight", (H,)
        yield f"{path}.self_attn.k_norm.weight", (H,)


def _linear(path: str, shape: tuple[int, ...], *, bias: bool) -> _Shapes:
    yield f"{path}.weight", shape
    if bias:
        yield f"{path}.bias", shape[:-1]


def _norm(path: str, config: ModelConfig) -> _Shapes:
    yield f"{path}.weight", (config.hidden_size,)
    if config.norm == "layer_norm":
        yield f"{path}.bias", (config.hidden_size,)
