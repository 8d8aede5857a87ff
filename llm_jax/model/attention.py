"""Grouped-query self-attention (arXiv:2305.13245), with or without a cache."""

from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import cached_attention
from llm_jax.model.cache import ChunkLayout
from llm_jax.model.layers import LayerNorm, Linear, RMSNorm, dropout, residual_std, softcap
from llm_jax.model.positions import alibi_slopes, layer_rotation, rotate

# Finite, so that a row with nothing to attend to gives an average instead of NaN.
HIDDEN = -1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reach:
    """Which keys a query may see, shared by all layers.

    Attributes:
        query_BT, key_BS: int32 positions of queries and keys.
        allowed: bool, broadcastable to [B, 1, T, S]: everything but causality and windows. None allows all.
        rows: which rows of the cache the queries belong to; None where these are all of its rows.
    """

    query_BT: Array
    key_BS: Array
    allowed: Array | None
    layout: ChunkLayout | None = None

    def mask(self, *, causal: bool, window: int | None) -> Array | None:
        """The whole mask, broadcastable to [B, 1, T, S]; None where every query sees every key."""
        distance = self.query_BT[:, None, :, None] - self.key_BS[:, None, None, :]
        parts = [] if self.allowed is None else [self.allowed]
        if causal:
            parts.append(distance >= 0)
        if window is not None:
            parts.append(jnp.abs(distance) < window)
        return reduce(jnp.logical_and, parts) if parts else None


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

    def project(
        self, x_BTD: Array, positions_BT: Array, norm: LayerNorm | RMSNorm | None = None
    ) -> tuple[Array, Array, Array]:
        """q [B,T,N,H], k and v [B,T,K,H], normalised and rotated as the model says."""
        config = self.config
        N, K, H = config.num_heads, config.kv_heads, config.head_size
        qkv = self.qkv_proj(x_BTD, norm=norm).reshape(*x_BTD.shape[:2], N + 2 * K, H)
        q, k, v = qkv[:, :, :N], qkv[:, :, N : N + K], qkv[:, :, N + K :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        rotation = layer_rotation(config, self.layer)
        if rotation is not None:
            q, k = rotate(q, positions_BT, *rotation), rotate(k, positions_BT, *rotation)
        return q, k, v

    def step(
        self,
        x_BTD: Array,
        cached: tuple[Array, Array],
        reach: Reach,
        norm: LayerNorm | RMSNorm | None,
        residual: Array | None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """With packed weights: what `project`, `write` and `attend` do, in three native calls."""
        config = self.config
        B, T, _ = x_BTD.shape
        N, H = config.num_heads, config.head_size
        assert self.qkv_proj.packed is not None
        assert reach.layout is not None
        rotation, rotary = layer_rotation(config, self.layer), None
        if self.q_norm is None:
            qkv_BTEH = self.qkv_proj(x_BTD, norm=norm).reshape(B, T, -1, H)
            if rotation is not None:
                frequencies, magnitude = rotation
                angle_BTh = reach.query_BT[:, :, None].astype(jnp.float32) * frequencies
                rotary = jnp.cos(angle_BTh) * magnitude, jnp.sin(angle_BTh) * magnitude
        else:  # the heads' own norms stand between the projection and the rotation
            qkv_BTEH = jnp.concatenate(self.project(x_BTD, reach.query_BT, norm), axis=2)
        mixed_BTNH, *kept = cached_attention(
            qkv_BTEH,
            *cached,
            reach.layout.cached_R,
            reach.layout.new_R,
            starts=reach.layout.starts,
            first_row=reach.layout.first_slot,
            scale=config.attention_multiplier,
            softcap=config.attention_softcap,
            window=config.window(self.layer),
            slopes_N=alibi_slopes(N) if config.positions == "alibi" else None,
            rotary=rotary,
            context=reach.key_BS.shape[1],
            level=self.qkv_proj.packed.level,
        )
        return self.out_proj(mixed_BTNH.reshape(B, T, N * H), residual=residual), (kept[0], kept[1])

    def attend(
        self,
        q_BTNH: Array,
        k_BKSH: Array,
        v_BKSH: Array,
        reach: Reach,
        dropout_key: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """[B, T, D]. Scores and softmax in float32."""
        config = self.config
        B, T, N, H = q_BTNH.shape
        K = config.kv_heads
        G = N // K
        # Queries that share a key head lie together, so that each head is one plain matrix product: on a CPU this
        # is 1.6 times as fast as leaving the transposition to einsum.
        q_BKRH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)
        score = jnp.einsum("BKRH,BKSH->BKRS", q_BKRH, k_BKSH).astype(jnp.float32)
        score = score.reshape(B, K, G, T, -1)
        score = softcap(score * config.attention_multiplier, config.attention_softcap)
        if config.positions == "alibi":
            distance = (reach.query_BT[:, :, None] - reach.key_BS[:, None, :]).astype(jnp.float32)
            slopes_KG = alibi_slopes(N).reshape(1, K, G, 1, 1)
            score = score - slopes_KG * jnp.abs(distance)[:, None, None]
        mask = reach.mask(causal=config.is_causal, window=config.window(self.layer))
        if mask is not None:
            score = jnp.where(mask[:, :, None], score, HIDDEN)
        weight = jax.nn.softmax(score, axis=-1)
        weight = dropout(weight, config.dropout_rate(config.attention_dropout), dropout_key)
        weight_BKRS = weight.astype(q_BTNH.dtype).reshape(B, K, G * T, -1)
        mixed = jnp.einsum("BKRS,BKSH->BKRH", weight_BKRS, v_BKSH)
        mixed = mixed.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4)
        return self.out_proj(mixed.reshape(B, T, N * H), residual=residual)
