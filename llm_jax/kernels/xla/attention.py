"""Attention in plain JAX: with or without a cache, on any device, differentiable; the native kernel's reference."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.attention_inputs import NO_BLOCK, AttentionSettings, ChunkLayout
from llm_jax.kernels.cache_format import decode, encode
from llm_jax.kernels.xla.functions import dropout, rotate, softcap

MASKED = -1e30  # finite, so that a query which may see nothing gives an average instead of NaN


def attend(
    q_BTNH: Array,
    keys_BKSH: Array,
    values_BKSH: Array,
    query_BT: Array,
    key_BS: Array,
    settings: AttentionSettings,
    *,
    sinks_N: Array | None = None,
    allowed: Array | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """softmax(q kᵀ · scale + bias) v, [B, T, N, H] in q's dtype. Products in q's dtype, sums and softmax in float32.

    Args:
        query_BT, key_BS: int32 positions, which causality, windows and ALiBi compare.
        sinks_N: one more score of each head, without a value.
        allowed: bool, broadcastable to [B, 1, T, S]; all unless given.
        dropout_key: a PRNG key drops attention weights.
    """
    (B, T, N, H), (_, K, S, _) = q_BTNH.shape, keys_BKSH.shape
    G = N // K
    # Queries that share a key head are adjacent, so that each head is one plain matrix product: on a CPU this is
    # 1.6 times as fast as leaving the transposition to einsum.
    q_BKMH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, H)
    score_BKMS = _scores(q_BKMH, keys_BKSH)
    score_BKGTS = softcap(score_BKMS.reshape(B, K, G, T, S) * settings.scale, settings.softcap)
    distance_BTS = query_BT[:, :, None] - key_BS[:, None, :]
    if settings.slopes_N is not None:
        slopes_KG = settings.slopes_N.reshape(1, K, G, 1, 1)
        score_BKGTS -= slopes_KG * jnp.abs(distance_BTS).astype(jnp.float32)[:, None, None]
    mask = attending_pairs(distance_BTS[:, None], settings, allowed)
    if mask is not None:
        score_BKGTS = jnp.where(mask[:, :, None], score_BKGTS, MASKED)
    if sinks_N is None:
        weight_BKGTS = jax.nn.softmax(score_BKGTS, axis=-1)
    else:
        sink_BKGT1 = jnp.broadcast_to(sinks_N.astype(jnp.float32).reshape(1, K, G, 1, 1), (B, K, G, T, 1))
        weight_BKGTS = jax.nn.softmax(jnp.concatenate([score_BKGTS, sink_BKGT1], axis=-1), axis=-1)[..., :-1]
    weight_BKGTS = dropout(weight_BKGTS, settings.dropout, dropout_key)
    weight_BKMS = weight_BKGTS.astype(q_BTNH.dtype).reshape(B, K, G * T, S)
    out_BKMH = jnp.einsum("BKMS,BKSH->BKMH", weight_BKMS, values_BKSH)
    return out_BKMH.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention(
    qkv_BTJH: Array,
    kv_heads: int,
    query_BT: Array,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    segment_BT: Array | None,
    allowed: Array | None,
    dropout_key: Array | None,
) -> Array:
    """See `llm_jax.kernels.attention`."""
    if segment_BT is not None:
        same_B1TS = (segment_BT[:, :, None] == segment_BT[:, None, :])[:, None]
        allowed = same_B1TS if allowed is None else allowed & same_B1TS
    q_BTNH, k_BTKH, v_BTKH = split_heads(qkv_BTJH, kv_heads, rotary)
    keys, values = k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2)
    return attend(
        q_BTNH,
        keys,
        values,
        query_BT,
        query_BT,
        settings,
        sinks_N=sinks_N,
        allowed=allowed,
        dropout_key=dropout_key,
    )


def cached_attention(
    qkv_BTJH: Array,
    keys_ZKXH: Array,
    values_ZKXH: Array,
    blocks_BY: Array,
    layout: ChunkLayout,
    settings: AttentionSettings,
    *,
    first_block: int,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    allowed: Array | None,
) -> tuple[Array, Array, Array]:
    """See `llm_jax.kernels.cached_attention`."""
    blocks_BY = jnp.where(blocks_BY == NO_BLOCK, NO_BLOCK, blocks_BY + first_block)
    (B, T, _, _), (_, K, X, _), Y = qkv_BTJH.shape, keys_ZKXH.shape, blocks_BY.shape[1]
    q_BTNH, k_BTKH, v_BTKH = split_heads(qkv_BTJH, K, rotary)
    query_BT, key_S = layout.positions((B, T)), jnp.arange(Y * X, dtype=jnp.int32)
    end_B1 = (layout.cached_R + layout.new_R)[:, None]
    # Write first, then read: the order in which XLA updates a donated cache in place.
    block_BT = jnp.take_along_axis(blocks_BY, query_BT // X, 1, mode="fill", fill_value=NO_BLOCK)
    block_BT = jnp.where(query_BT < end_B1, block_BT, NO_BLOCK)
    keys_ZKXH, values_ZKXH = (
        cache.at[block_BT, :, query_BT % X].set(encode(new, cache.dtype), mode="drop")
        for cache, new in ((keys_ZKXH, k_BTKH), (values_ZKXH, v_BTKH))
    )

    def read(cache_ZKXH: Array) -> Array:
        cached_BYKXH = cache_ZKXH.at[blocks_BY].get(mode="fill", fill_value=0)
        return decode(cached_BYKXH.swapaxes(1, 2).reshape(B, K, Y * X, -1), qkv_BTJH.dtype)

    filled_BS = seen_BS = key_S < end_B1
    if settings.window is not None:
        seen_BS &= key_S > layout.cached_R[:, None] - settings.window
    values_BKSH = jnp.where(seen_BS[:, None, :, None], read(values_ZKXH), 0)  # a weight of zero does not hide a NaN
    if not settings.is_causal:  # no other mask hides positions after the tokens cached so far
        allowed = filled_BS[:, None, None] if allowed is None else allowed & filled_BS[:, None, None]
    key_BS = jnp.broadcast_to(key_S, filled_BS.shape)
    out = attend(q_BTNH, read(keys_ZKXH), values_BKSH, query_BT, key_BS, settings, sinks_N=sinks_N, allowed=allowed)
    return out, keys_ZKXH, values_ZKXH


@jax.custom_vjp
def _scores(q_BKMH: Array, keys_BKSH: Array) -> Array:
    """q kᵀ with sums in float32, whatever the dtype of q and k. The gradient's products are in their dtype too."""
    return jnp.einsum("BKMH,BKSH->BKMS", q_BKMH, keys_BKSH, preferred_element_type=jnp.float32)


def _scores_forward(q_BKMH: Array, keys_BKSH: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scores(q_BKMH, keys_BKSH), (q_BKMH, keys_BKSH)


def _scores_backward(operands: tuple[Array, Array], gradient_BKMS: Array) -> tuple[Array, Array]:
    q_BKMH, keys_BKSH = operands
    gradient_BKMS = gradient_BKMS.astype(q_BKMH.dtype)  # a product of two dtypes would run in the wider one
    q_gradient = jnp.einsum("BKMS,BKSH->BKMH", gradient_BKMS, keys_BKSH)
    return q_gradient, jnp.einsum("BKMS,BKMH->BKSH", gradient_BKMS, q_BKMH)


_scores.defvjp(_scores_forward, _scores_backward)


def split_heads(qkv_BTJH: Array, K: int, rotary: tuple[Array, Array] | None) -> tuple[Array, Array, Array]:
    """Queries, keys and values of a fused projection; the first two rotated."""
    N = qkv_BTJH.shape[2] - 2 * K
    q_BTNH, k_BTKH, v_BTKH = jnp.split(qkv_BTJH, (N, N + K), axis=2)
    if rotary is not None:
        q_BTNH, k_BTKH = rotate(q_BTNH, *rotary), rotate(k_BTKH, *rotary)
    return q_BTNH, k_BTKH, v_BTKH


def attending_pairs(distance_B1TS: Array, settings: AttentionSettings, allowed: Array | None) -> Array | None:
    """Which pairs of query and key attend, broadcastable to [B, 1, T, S]; None where all do."""
    parts = [] if allowed is None else [allowed]
    if settings.is_causal:
        parts.append(distance_B1TS >= 0)
    if settings.window is not None:
        parts.append(jnp.abs(distance_B1TS) < settings.window)
    return reduce(jnp.logical_and, parts) if parts else None
