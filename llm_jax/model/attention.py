"""Grouped-query self-attention (arXiv:2305.13245), with or without a cache."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import AttentionSettings, ChunkLayout, attention, rotate
from llm_jax.model.cache import LayerCache
from llm_jax.model.layers import AnyNorm, Linear, RMSNorm, SublayerEnd, parameter
from llm_jax.model.positions import alibi_slopes, layer_rotation, rotary_tables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """Which tokens may attend to which, shared by all layers: causality and windows are each layer's own.

    Attributes:
        position_BT: int32 positions of the tokens.
        allowed: bool, broadcastable to [B, 1, T, S]; None allows all pairs.
        segment_BT: int; tokens attend within their own segment. None with a cache.
        layout: where the tokens go in the cache; None without one.
    """

    position_BT: Array
    allowed: Array | None = None
    segment_BT: Array | None = None
    layout: ChunkLayout | None = None


def head_norm(config: ModelConfig, size: int) -> RMSNorm:
    return RMSNorm(size, eps=config.norm_eps, offset=config.norm_offset)


class SelfAttention(nnx.Module):
    """softmax(q kᵀ · scale + bias) v over fused q, k, v weights: rows are all q heads, then k, then v."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        N, K, H, D = config.num_heads, config.kv_heads, config.head_size, config.hidden_size
        self.qkv_proj = Linear(D, (N + 2 * K) * H, bias=config.qkv_bias)
        self.out_proj = Linear(N * H, D, bias=config.has_out_bias)
        sizes = (N * H, K * H) if config.qk_norm == "width" else (H, H)
        self.q_norm, self.k_norm = (None if config.qk_norm is None else head_norm(config, size) for size in sizes)
        self.sinks = parameter(N) if config.attention_sinks else None
        self.config = config
        self.layer = layer

    def __call__(
        self,
        x_BTD: Array,
        inputs: AttentionInputs,
        cache: LayerCache | None,
        norm: AnyNorm | None,
        end: SublayerEnd,
        dropout_key: Array | None,
    ) -> tuple[Array, LayerCache | None]:
        """The residual stream [B, T, D] with attention(norm(x)) added, and the cache with the new keys and values."""
        B, T, _ = x_BTD.shape
        settings, rotation = self.settings(), layer_rotation(self.config, self.layer)
        sinks_N = None if self.sinks is None else self.sinks[...]
        rotary = None if rotation is None else rotary_tables(inputs.position_BT, *rotation)
        qkv_BTJH = self.qkv_proj(x_BTD, norm=norm).reshape(B, T, -1, self.config.head_size)
        if self.config.qk_norm == "rotated_head" and rotary is not None:
            qkv_BTJH, rotary = self.rotate_heads(qkv_BTJH, rotary), None
        qkv_BTJH = self.normalise_heads(qkv_BTJH)
        if cache is None:
            heads_BTNH = attention(
                qkv_BTJH,
                self.config.kv_heads,
                inputs.position_BT,
                settings,
                rotary=rotary,
                sinks_N=sinks_N,
                segment_BT=inputs.segment_BT,
                allowed=inputs.allowed,
                dropout_key=dropout_key,
            )
        else:
            assert inputs.layout is not None
            heads_BTNH, cache = cache.append_and_attend(
                qkv_BTJH, inputs.layout, settings, rotary=rotary, sinks_N=sinks_N, allowed=inputs.allowed
            )
        heads = heads_BTNH.reshape(B, T, -1)
        return self.out_proj.add_to(x_BTD, heads, end, None), cache

    def settings(self) -> AttentionSettings:
        config = self.config
        return AttentionSettings(
            scale=config.attention_multiplier,
            softcap=config.attention_softcap,
            window=config.window(self.layer),
            slopes_N=alibi_slopes(config.num_heads) if config.positions == "alibi" else None,
            is_causal=config.is_causal,
            dropout=config.dropout_rate(config.attention_dropout),
        )

    def normalise_heads(self, qkv_BTJH: Array) -> Array:
        """Query and key heads through their own norms, where the model has them."""
        if self.q_norm is None or self.k_norm is None:
            return qkv_BTJH
        q, k, v = self.split_heads(qkv_BTJH)
        B, T = qkv_BTJH.shape[:2]
        if self.config.qk_norm == "width":
            normed = [norm(x.reshape(B, T, -1)).reshape(x.shape) for norm, x in ((self.q_norm, q), (self.k_norm, k))]
        else:
            normed = [self.q_norm(q), self.k_norm(k)]
        return jnp.concatenate([*normed, v], axis=2)

    def rotate_heads(self, qkv_BTJH: Array, rotary: tuple[Array, Array]) -> Array:
        """Query and key heads rotated."""
        q, k, v = self.split_heads(qkv_BTJH)
        return jnp.concatenate([rotate(q, *rotary), rotate(k, *rotary), v], axis=2)

    def split_heads(self, qkv_BTJH: Array) -> list[Array]:
        N, K = self.config.num_heads, self.config.kv_heads
        return jnp.split(qkv_BTJH, (N, N + K), axis=2)
