"""ids -> logits: the one decoder that all families are settings of."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import held_positions
from llm_jax.model.attention import Reach, SelfAttention
from llm_jax.model.cache import KVCache, read, write
from llm_jax.model.layers import Embedding, FeedForward, Linear, dropout, make_norm, softcap
from llm_jax.model.moe import MixtureOfExperts
from llm_jax.model.positions import sinusoidal_table


class LearnedPositions(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.pos_embedding = Embedding(config.max_seq_len, config.hidden_size, rngs=rngs)


class EmbeddingLayer(nnx.Module):
    """Token embeddings, scaled, plus absolute positions where the model has them."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        if config.padding_idx is not None:
            weight = self.token_embeddings.weight
            weight[...] = weight[...].at[config.padding_idx].set(0.0)
        self.positional_encoding = LearnedPositions(config, rngs=rngs) if config.positions == "learned" else None
        self.config = config

    def __call__(self, tokens_BT: Array, positions_BT: Array, dtype: jnp.dtype) -> Array:
        config = self.config
        x = self.token_embeddings(tokens_BT, dtype)
        if config.padding_idx is not None:
            x = jnp.where((tokens_BT == config.padding_idx)[..., None], jax.lax.stop_gradient(x), x)
        x = x * jnp.asarray(config.embedding_multiplier, dtype)
        if self.positional_encoding is not None:
            x = x + self.positional_encoding.pos_embedding(positions_BT, dtype)
        elif config.positions == "sinusoidal":
            table = jnp.asarray(sinusoidal_table(config.max_seq_len, config.hidden_size), dtype)
            x = x + table[positions_BT]
        return x


class Block(nnx.Module):
    """Attention and feed-forward, each added to the residual stream: norms before, behind, or both."""

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = make_norm(config)
        self.self_attn = SelfAttention(config, layer, rngs=rngs)
        self.norm2 = make_norm(config)
        self.mlp = MixtureOfExperts(config, rngs=rngs) if config.use_moe else FeedForward(config, rngs=rngs)
        self.post_attn_norm = make_norm(config) if config.sandwich_norm else None
        self.post_mlp_norm = make_norm(config) if config.sandwich_norm else None
        self.config = config

    def __call__(
        self,
        x_BTD: Array,
        reach: Reach,
        cached: tuple[Array, Array] | None,
        dropout_key: Array | None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Gives the new residual stream and the keys and values [B, K, S, H], cached ones included."""
        config = self.config
        window = config.window(self.self_attn.layer)
        attn_key, mlp_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)

        # Norms before and sums behind go into the linear maps: a packed map does all three in one call.
        norm = self.norm1 if config.norm_first else None
        residual = x_BTD if self.post_attn_norm is None else None
        is_plain = reach.layout is not None and reach.allowed is None
        if cached is not None and is_plain and self.self_attn.qkv_proj.packed is not None:
            x, kept = self.self_attn.step(x_BTD, cached, reach, norm, residual)
        else:
            q, k, v = self.self_attn.project(x_BTD, reach.query_BT, norm)
            if cached is None:
                keys, values = kept = k.swapaxes(1, 2), v.swapaxes(1, 2)
            else:
                # Write first, then read the live part: the order in which XLA updates a donated cache in place.
                first = None if reach.layout is None else reach.layout.first_slot
                at = reach.query_BT, window, first
                kept = write(cached[0], k, *at), write(cached[1], v, *at)
                keys, values = (read(cache, reach.key_BS.shape, q.dtype, first) for cache in kept)
                S = reach.key_BS.shape[1]
                reach = replace(reach, key_BS=held_positions(reach.query_BT, kept[0].shape[2], window, S))
            x = self.self_attn.attend(q, keys, values, reach, attn_key, residual)
        if self.post_attn_norm is not None:
            x = x_BTD + self.post_attn_norm(x)
        if not config.norm_first:
            x = self.norm1(x)

        norm = self.norm2 if config.norm_first else None
        if mlp_key is None and self.post_mlp_norm is None:
            x = self.mlp(x, norm=norm, residual=x)
        else:
            h = dropout(self.mlp(x, norm=norm), config.dropout_rate(config.mlp_dropout), mlp_key)
            x = x + (h if self.post_mlp_norm is None else self.post_mlp_norm(h))
        if not config.norm_first:
            x = self.norm2(x)
        return x, kept


class Decoder(nnx.Module):
    """A decoder-only transformer. Attribute names are the names that checkpoints hold."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.embedding_layer = EmbeddingLayer(config, rngs=rngs)
        self.transformer_blocks = nnx.List([Block(config, i, rngs=rngs) for i in range(config.num_layers)])
        self.final_norm = make_norm(config) if config.norm_first else None
        self.lm_head = None if config.tie_embeddings else Linear(
            config.hidden_size, config.vocab_size, bias=config.lm_head_bias, rngs=rngs
        )  # fmt: skip
        self.config = config

    def hidden(
        self,
        tokens_BT: Array,
        reach: Reach,
        cache: KVCache | None,
        dtype: jnp.dtype,
        dropout_key: Array | None,
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """The last hidden states [B, T, D] behind the final norm, and each layer's keys and values."""
        config = self.config
        x = self.embedding_layer(tokens_BT, reach.query_BT, dtype)
        if dropout_key is not None:
            rate = config.dropout_rate(config.embedding_dropout)
            x = dropout(x, rate, jax.random.fold_in(dropout_key, config.num_layers))
        kept = []
        for i, block in enumerate(self.transformer_blocks):
            run = jax.checkpoint(block.__call__) if config.gradient_checkpointing and cache is None else block
            cached = None if cache is None else (cache.keys[i], cache.values[i])
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
            x, keys_values = run(x, reach, cached, key)
            kept.append(keys_values)
        return (x if self.final_norm is None else self.final_norm(x)), kept

    def head(self, hidden: Array) -> Array:
        """Logits in float32 over the last axis."""
        if self.lm_head is None:
            table = self.embedding_layer.token_embeddings.weight[...].astype(hidden.dtype)
            logits = jnp.einsum("...d,vd->...v", hidden, table)
        else:
            logits = self.lm_head(hidden)
        return softcap(logits.astype(jnp.float32), self.config.logit_softcap)
