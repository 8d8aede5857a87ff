"""Grouped-query self-attention (arXiv:2305.13245), with or without a cache."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import AttentionSettings, ChunkLayout, attention
from llm_jax.model.cache import LayerCache
from llm_jax.model.layers import AnyNorm, Linear, RMSNorm, residual_std
from llm_jax.model.positions import alibi_slopes, layer_rotation, rotary_tables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """Which tokens may attend to which, shared by all layers: causality and windows are each layer's own.

    Attributes:
        position_BT: int32 positions of the tokens.
        allowed: bool, broadcastable to [B, 1, T, S]; None allows all pairs.
        layout: where the tokens go in the cache; None without one.
    """

    position_BT: Array
    allowed: Array | None = None
    layout: ChunkLayout | None = None


class SelfAttention(nnx.Module):
    """softmax(q kᵀ · scale + bias) v over fused q, k, v weights: rows are all q heads, then k, then v."""

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        N, K, H, D = config.num_heads, config.kv_heads, config.head_size, config.hidden_size
        self.qkv_proj = Linear(D, (N + 2 * K) * H, bias=config.qkv_bias, rngs=rngs)
        self.out_proj = Linear(N * H, D, bias=config.has_out_bias, rngs=rngs, std=residual_std(config))
        self.q_norm = RMSNorm(H, eps=config.norm_eps, offset=config.norm_offset) if config.qk_norm else None
        self.k_norm = RMSNorm(H, eps=config.norm_eps, offset=config.norm_offset) if config.qk_norm else None
        self.config = config
        self.layer = layer

    def __call__(
        self,
        x_BTD: Array,
        inputs: AttentionInputs,
        cache: LayerCache | None = None,
        *,
        norm: AnyNorm | None = None,
        post_norm: AnyNorm | None = None,
        dropout_key: Array | None = None,
    ) -> tuple[Array, LayerCache | None]:
        """x + post_norm(attention(norm(x))), [B, T, D], and the cache with the new keys and values."""
        B, T, _ = x_BTD.shape
        settings, rotation = self.settings(), layer_rotation(self.config, self.layer)
        qkv_BTJH = self.normalise_heads(self.qkv_proj(x_BTD, norm=norm).reshape(B, T, -1, self.config.head_size))
        rotary = None if rotation is None else rotary_tables(inputs.position_BT, *rotation)
        if cache is None:
            heads_BTNH = attention(
                qkv_BTJH,
                self.config.kv_heads,
                inputs.position_BT,
                settings,
                rotary=rotary,
                allowed=inputs.allowed,
                dropout_key=dropout_key,
            )
        else:
            assert inputs.layout is not None
            heads_BTNH, cache = cache.append_and_attend(
                qkv_BTJH, inputs.layout, settings, rotary=rotary, allowed=inputs.allowed
            )
        heads = heads_BTNH.reshape(B, T, -1)
        return self.out_proj.add_to(x_BTD, heads, post_norm=post_norm, dropout_key=None), cache

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
        N, K = self.config.num_heads, self.config.kv_heads
        q, k, v = jnp.split(qkv_BTJH, (N, N + K), axis=2)
        return jnp.concatenate([self.q_norm(q), self.k_norm(k), v], axis=2)
