"""ids -> logits: the one decoder that all families are settings of."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax import parallel
from llm_jax.config import ModelConfig
from llm_jax.kernels import dropout, softcap
from llm_jax.model.attention import AttentionInputs, SelfAttention
from llm_jax.model.cache import KVCache, LayerCache
from llm_jax.model.layers import Embedding, FeedForward, Linear, SublayerEnd, make_norm, normalised
from llm_jax.model.moe import MixtureOfExperts
from llm_jax.model.positions import sinusoidal_table
from llm_jax.model.remat import remat
from llm_jax.model.routing import Routing


class LearnedPositions(nnx.Module):
    def __init__(self, config: ModelConfig) -> None:
        self.pos_embedding = Embedding(config.max_seq_len, config.hidden_size)


class EmbeddingLayer(nnx.Module):
    """Token embeddings, scaled, plus absolute positions where the model has them."""

    def __init__(self, config: ModelConfig) -> None:
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.positional_encoding = LearnedPositions(config) if config.positions == "learned" else None
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
    """Attention and feed-forward, added to the residual stream in turn or at once, with norms before or behind."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self.norm1 = make_norm(config) if config.input_norm else None
        self.self_attn = SelfAttention(config, layer)
        self.norm2 = make_norm(config) if config.input_norm and not config.shared_norm else None
        self.mlp: MixtureOfExperts | FeedForward
        if config.has_experts(layer):
            self.mlp = MixtureOfExperts(config)
        else:
            self.mlp = FeedForward(config, config.dense_ffn_size)
        self.post_attn_norm = make_norm(config) if config.sandwich_norm else None
        self.post_mlp_norm = make_norm(config) if config.sandwich_norm else None
        self.config = config

    def __call__(
        self, x_BTD: Array, inputs: AttentionInputs, cache: LayerCache | None, dropout_key: Array | None
    ) -> tuple[Array, LayerCache | None]:
        """The new residual stream [B, T, D], and the layer's cache with the new keys and values."""
        config = self.config
        attn_key, mlp_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        attn_end = SublayerEnd(self.post_attn_norm, config.residual_scale)
        mlp_end = SublayerEnd(self.post_mlp_norm, config.residual_scale, config.dropout_rate(config.mlp_dropout))
        if not config.norm_first:
            x_BTD, cache = self.self_attn(x_BTD, inputs, cache, None, attn_end, attn_key)
            x_BTD = normalised(x_BTD, self.norm1)
            return normalised(self.mlp(x_BTD, x_BTD, None, mlp_end, mlp_key), self.norm2), cache
        residual_BTD, cache = self.self_attn(x_BTD, inputs, cache, self.norm1, attn_end, attn_key)
        x_BTD = x_BTD if config.parallel_residual else residual_BTD
        norm2 = self.norm1 if config.shared_norm else self.norm2
        return self.mlp(x_BTD, residual_BTD, norm2, mlp_end, mlp_key), cache


class Decoder(nnx.Module):
    """A decoder-only transformer. Attribute names are the names that checkpoints hold."""

    def __init__(self, config: ModelConfig) -> None:
        self.embedding_layer = EmbeddingLayer(config)
        self.transformer_blocks = nnx.List([Block(config, i) for i in range(config.num_layers)])
        self.final_norm = make_norm(config) if config.norm_first else None
        size_in, size_out, bias = config.hidden_size, config.vocab_size, config.lm_head_bias
        self.lm_head = None if config.tie_embeddings else Linear(size_in, size_out, bias=bias)
        self.config = config

    def hidden(
        self,
        tokens_BT: Array,
        inputs: AttentionInputs,
        cache: KVCache | None,
        dtype: jnp.dtype,
        dropout_key: Array | None,
        counted_BT: Array | None = None,
    ) -> tuple[Array, KVCache | None, list[Routing]]:
        """The last hidden states [B, T, D], after the final norm, the cache with the new tokens, and without a cache
        what each router did with the tokens that are counted (bool).
        """
        config = self.config
        x = self.embedding_layer(tokens_BT, inputs.position_BT, dtype)
        if dropout_key is not None:
            rate = config.dropout_rate(config.embedding_dropout)
            x = dropout(x, rate, jax.random.fold_in(dropout_key, config.num_layers))
        routings = []
        for i, block in enumerate(self.transformer_blocks):
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
            if cache is not None:
                x, layer = block(x, inputs, cache.layer(i), key)
                cache = cache.with_layer(layer)
            elif config.gradient_checkpointing:
                graph, state = nnx.split(block)
                x, routing = remat(partial(_merged, graph), x, state, inputs, key, counted_BT)
                routings += [] if routing is None else [routing]
            else:
                x, routing = _behind(block, x, inputs, key, counted_BT)
                routings += [] if routing is None else [routing]
        return (x if self.final_norm is None else self.final_norm(x)), cache, routings

    def head(self, hidden: Array) -> Array:
        """Logits in float32 over the last axis."""
        embedding = self.embedding_layer.token_embeddings
        logits = embedding.scores(hidden) if self.lm_head is None else self.lm_head(hidden)
        logits = logits.astype(jnp.float32)
        if self.config.logit_scale != 1.0:
            logits = logits * self.config.logit_scale
        return softcap(logits, self.config.logit_softcap)


def _behind(
    block: Block, x_BTD: Array, inputs: AttentionInputs, dropout_key: Array | None, counted_BT: Array | None
) -> tuple[Array, Routing | None]:
    """The residual stream behind a block, and what its router did with the tokens that are counted."""
    found: list[Routing] = []
    if counted_BT is not None and isinstance(block.mlp, MixtureOfExperts):
        router, counted_M = block.mlp.router, counted_BT.reshape(-1)
        router.observe = lambda score_ME, expert_Mk: found.append(router.routing(counted_M, score_ME, expert_Mk))
    x_BTD, _ = block(parallel.rows_in_place(x_BTD), inputs, None, dropout_key)
    return parallel.rows_in_place(x_BTD), (found[0] if found else None)


def _merged(
    graph: nnx.GraphDef[Block], x_BTD: Array, state: nnx.State, *arguments: Any
) -> tuple[Array, Routing | None]:
    """The same of a block in two parts."""
    return _behind(nnx.merge(graph, state), x_BTD, *arguments)
