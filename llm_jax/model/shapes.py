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
        yield from _block(f"transformer_blocks.{i}", config, experts=config.has_experts(i))


def _block(path: str, config: ModelConfig, *, experts: bool) -> _Shapes:
    D, N, K, H = config.hidden_size, config.num_heads, config.kv_heads, config.head_size
    if experts:
        yield from _experts(f"{path}.mlp", config)
    else:
        yield from _feed_forward(f"{path}.mlp", config, (), config.dense_ffn_size)
    norms = ["norm1"] * config.input_norm + ["norm2"] * (config.input_norm and not config.shared_norm)
    for name in norms + ["post_attn_norm", "post_mlp_norm"] * config.sandwich_norm:
        yield from _norm(f"{path}.{name}", config)
    yield from _linear(f"{path}.self_attn.qkv_proj", ((N + 2 * K) * H, D), bias=config.qkv_bias)
    yield from _linear(f"{path}.self_attn.out_proj", (D, N * H), bias=config.has_out_bias)
    if config.qk_norm is not None:
        width = config.qk_norm == "width"
        yield f"{path}.self_attn.q_norm.weight", (N * H if width else H,)
        yield f"{path}.self_attn.k_norm.weight", (K * H if width else H,)
    if config.attention_sinks:
        yield f"{path}.self_attn.sinks", (N,)


def _experts(path: str, config: ModelConfig) -> _Shapes:
    D, E = config.hidden_size, config.num_experts
    yield from _linear(f"{path}.router", (E, D), bias=config.router_bias)
    if config.router == "sigmoid":
        yield f"{path}.router.correction", (E,)
    yield from _feed_forward(f"{path}.experts", config, (E,), config.ffn_size)
    if config.shared_expert_size is not None:
        yield from _feed_forward(f"{path}.shared_expert", config, (), config.shared_expert_size)
    if config.shared_expert_gate:
        yield from _linear(f"{path}.shared_expert_gate", (1, D), bias=False)


def _feed_forward(path: str, config: ModelConfig, experts: tuple[int, ...], F: int) -> _Shapes:
    D = config.hidden_size
    yield from _linear(f"{path}.fc1", (*experts, F, D), bias=config.mlp_bias)
    if config.use_glu:
        yield from _linear(f"{path}.gate_proj", (*experts, F, D), bias=config.mlp_bias)
    yield from _linear(f"{path}.fc2", (*experts, D, F), bias=config.mlp_bias)


def _linear(path: str, shape: tuple[int, ...], *, bias: bool) -> _Shapes:
    yield f"{path}.weight", shape
    if bias:
        yield f"{path}.bias", shape[:-1]


def _norm(path: str, config: ModelConfig) -> _Shapes:
    yield f"{path}.weight", (config.hidden_size,)
    if config.norm == "layer_norm" and config.norm_bias:
        yield f"{path}.bias", (config.hidden_size,)
