"""Attention in blocks, in memory linear in T (FlashAttention-2, arXiv:2307.08691), in plain JAX.

The forward pass keeps the output and each query's logsumexp; the backward pass computes the weights of a block of
queries and keys again from them. Pairs of blocks in which nothing may attend (causality, windows, segments) are left
out, by bounds of their positions.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.kernels.attention_inputs import AttentionSettings
from llm_jax.kernels.xla.attention import MASKED, attending_pairs, split_heads
from llm_jax.kernels.xla.functions import afresh, softcap
from llm_jax.kernels.xla.random import bernoulli


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Pairs:
    """Which query of block i may attend to which key of block j.

    Attributes:
        position_YBX, segment_YBX: int32, of all blocks.
        allowed: see `llm_jax.kernels.attention`; padded to whole blocks.
        dropout_key: None without dropout.
        meet_YY: bool, False where no query of a block attends to any key of another.
        tokens: T without padding.
    """

    position_YBX: Array
    segment_YBX: Array | None
    allowed: Array | None
    dropout_key: Array | None
    meet_YY: Array
    tokens: int = field(metadata={"static": True})

    def mask(self, i: Array, j: Array, settings: AttentionSettings) -> Array | None:
        """Broadcastable to [B, 1, T, S] of a block's tokens; None where all attend."""
        (Y, _, X), parts = self.position_YBX.shape, []
        if self.tokens < Y * X:
            parts.append(j * X + jnp.arange(X) < self.tokens)
        if self.segment_YBX is not None:
            parts.append((self.segment_YBX[i][:, :, None] == self.segment_YBX[j][:, None, :])[:, None])
        if self.allowed is not None:
            x = self.allowed
            for axis, block in ((2, i), (3, j)):
                x = x if x.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(x, block * X, X, axis)
            parts.append(x)
        allowed = None
        for part in parts:
            allowed = part if allowed is None else allowed & part
        return attending_pairs(self.distance(i, j)[:, None], settings, allowed)

    def distance(self, i: Array, j: Array) -> Array:
        """Positions [B, T, S] from key to query."""
        return self.position_YBX[i][:, :, None] - self.position_YBX[j][:, None, :]

    def dropout_factor(self, i: Array, j: Array, shape: tuple[int, ...], rate: float) -> Array | None:
        """What dropout multiplies the weights of a block with; None without dropout."""
        if self.dropout_key is None or rate == 0.0:
            return None
        key = jax.random.fold_in(jax.random.fold_in(self.dropout_key, i), j)
        return bernoulli(key, 1.0 - rate, shape) / jnp.float32(1.0 - rate)


def blocked_attention(
    qkv_BTJH: Array,
    kv_heads: int,
    position_BT: Array,
    settings: AttentionSettings,
    *,
    rotary: tuple[Array, Array] | None,
    sinks_N: Array | None,
    segment_BT: Array | None,
    allowed: Array | None,
    dropout_key: Array | None,
    block_tokens: int,
) -> Array:
    """See `llm_jax.kernels.attention`."""
    q_BTNH, k_BTKH, v_BTKH = split_heads(qkv_BTJH, kv_heads, rotary)
    (B, T, N, H), K = q_BTNH.shape, kv_heads
    Y = -(-T // block_tokens)
    X, G = -(-T // Y), N // K
    pad = Y * X - T

    def blocks(x: Array, mode: str = "constant") -> Array:
        """[B, T, …] as [Y, B, X, …]."""
        padded = jnp.pad(x, [(0, 0), (0, pad), *[(0, 0)] * (x.ndim - 2)], mode=mode)
        return padded.reshape(B, Y, X, *x.shape[2:]).swapaxes(0, 1)

    if allowed is not None:  # padding may attend to all, so that no bound is changed by it
        allowed = allowed.reshape(*[1] * (4 - allowed.ndim), *allowed.shape)
        widths = [(0, 0), (0, 0), *((0, pad if size > 1 else 0) for size in allowed.shape[2:])]
        allowed = jnp.pad(allowed, widths)
    position_YBX = blocks(position_BT, "edge")
    segment_YBX = None if segment_BT is None else blocks(segment_BT, "edge")
    meet_YY = _meeting_blocks(position_YBX, segment_YBX, settings)
    pairs = _Pairs(position_YBX, segment_YBX, allowed, dropout_key, meet_YY, T)
    q_YBKMH = blocks(q_BTNH).reshape(Y, B, X, K, G, H).transpose(0, 1, 3, 4, 2, 5).reshape(Y, B, K, G * X, H)
    keys_YBKXH, values_YBKXH = blocks(k_BTKH).swapaxes(2, 3), blocks(v_BTKH).swapaxes(2, 3)
    out_YBKMH = _attend(settings, q_YBKMH, keys_YBKXH, values_YBKXH, sinks_N, pairs)
    return out_YBKMH.reshape(Y, B, K, G, X, H).transpose(1, 0, 4, 2, 3, 5).reshape(B, Y * X, N, H)[:, :T]


def _meeting_blocks(position_YBX: Array, segment_YBX: Array | None, settings: AttentionSettings) -> Array:
    """`_Pairs.meet_YY`, by the bounds of each block: it may be True where a closer look would say no."""
    Y = len(position_YBX)
    low_YB, high_YB = position_YBX.min(2), position_YBX.max(2)
    meet_YYB = jnp.ones((Y, Y, 1), bool)
    if settings.is_causal:
        meet_YYB &= high_YB[:, None] >= low_YB[None]
    if settings.window is not None:
        meet_YYB &= low_YB[:, None] - high_YB[None] < settings.window
        meet_YYB &= low_YB[None] - high_YB[:, None] < settings.window
    if segment_YBX is not None:
        low_YB, high_YB = segment_YBX.min(2), segment_YBX.max(2)
        meet_YYB &= (low_YB[:, None] <= high_YB[None]) & (low_YB[None] <= high_YB[:, None])
    return meet_YYB.any(2)


def _range(meet_Y: Array) -> tuple[Array, Array]:
    """From the first True to behind the last: a block meets itself, so there is one."""
    return jnp.argmax(meet_Y), len(meet_Y) - jnp.argmax(meet_Y[::-1])


def _scores(
    settings: AttentionSettings, pairs: _Pairs, q_BKMH: Array, keys_BKSH: Array, i: Array, j: Array
) -> tuple[Array, Array]:
    """Masked scores [B, K, G, T, S] of a pair of blocks in float32, and the bounded ones before ALiBi and masks."""
    (B, K, M, _), T = q_BKMH.shape, pairs.position_YBX.shape[2]
    G = M // T
    product_BKMS = jnp.einsum("BKMH,BKSH->BKMS", q_BKMH, keys_BKSH, preferred_element_type=jnp.float32)
    bounded_BKGTS = score_BKGTS = softcap(product_BKMS.reshape(B, K, G, T, -1) * settings.scale, settings.softcap)
    if settings.slopes_N is not None:
        slopes_KG = settings.slopes_N.reshape(1, K, G, 1, 1)
        score_BKGTS -= slopes_KG * jnp.abs(pairs.distance(i, j)).astype(jnp.float32)[:, None, None]
    mask = pairs.mask(i, j, settings)
    if mask is not None:
        mask = mask.reshape(*[1] * (4 - mask.ndim), *mask.shape)
        score_BKGTS = jnp.where(mask[:, :, None], score_BKGTS, MASKED)
    return score_BKGTS, bounded_BKGTS


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    settings: AttentionSettings,
    q_YBKMH: Array,
    keys_YBKXH: Array,
    values_YBKXH: Array,
    sinks_N: Array | None,
    pairs: _Pairs,
) -> Array:
    """The output in q's shape."""
    return _forward(settings, q_YBKMH, keys_YBKXH, values_YBKXH, sinks_N, pairs)[0]


def _forward(
    settings: AttentionSettings,
    q_YBKMH: Array,
    keys_YBKXH: Array,
    values_YBKXH: Array,
    sinks_N: Array | None,
    pairs: _Pairs,
) -> tuple[Array, Any]:
    _, B, K, M, H = q_YBKMH.shape
    dtype = q_YBKMH.dtype

    def query_block(i: Array) -> tuple[Array, Array]:
        def key_block(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            highest_BKM, sum_BKM, out_BKMH = state
            score_BKGTS, _ = _scores(settings, pairs, q_YBKMH[i], keys_YBKXH[j], i, j)
            score_BKMS = score_BKGTS.reshape(B, K, M, -1)
            new_BKM = jnp.maximum(highest_BKM, score_BKMS.max(-1))
            weight_BKMS = jnp.exp(score_BKMS - new_BKM[..., None])
            shrink_BKM = jnp.exp(highest_BKM - new_BKM)
            sum_BKM = sum_BKM * shrink_BKM + weight_BKMS.sum(-1)
            factor = pairs.dropout_factor(i, j, weight_BKMS.shape, settings.dropout)
            weight_BKMS = weight_BKMS if factor is None else weight_BKMS * factor
            mixed_BKMH = _product("BKMS,BKSH->BKMH", weight_BKMS.astype(dtype), values_YBKXH[j])
            return new_BKM, sum_BKM, out_BKMH * shrink_BKM[..., None] + mixed_BKMH

        if sinks_N is None:
            highest_BKM, sum_BKM = jnp.full((B, K, M), MASKED), jnp.zeros((B, K, M))
        else:
            highest_BKM, sum_BKM = _per_query(sinks_N, B, K, M), jnp.ones((B, K, M))
        state = highest_BKM, sum_BKM, jnp.zeros((B, K, M, H))
        highest_BKM, sum_BKM, out_BKMH = jax.lax.fori_loop(*_range(pairs.meet_YY[i]), key_block, state)
        return (out_BKMH / sum_BKM[..., None]).astype(dtype), highest_BKM + jnp.log(sum_BKM)

    out_YBKMH, logsumexp_YBKM = jax.lax.map(query_block, jnp.arange(len(q_YBKMH)))
    return out_YBKMH, (q_YBKMH, keys_YBKXH, values_YBKXH, sinks_N, pairs, out_YBKMH, logsumexp_YBKM)


def _backward(settings: AttentionSettings, saved: Any, of_out_YBKMH: Array) -> tuple[Any, ...]:
    q_YBKMH, keys_YBKXH, values_YBKXH, sinks_N, pairs, out_YBKMH, logsumexp_YBKM = saved
    dtype = q_YBKMH.dtype
    # Else the compiler stores what the forward pass made of them for its products: values widened or transposed.
    q_YBKMH, keys_YBKXH, values_YBKXH = afresh((q_YBKMH, keys_YBKXH, values_YBKXH), of_out_YBKMH)
    # The gradient of a score is weight · (gradient of the weight - the weights' mean of it), which is this mean:
    mean_YBKM = jnp.einsum("YBKMH,YBKMH->YBKM", of_out_YBKMH, out_YBKMH, preferred_element_type=jnp.float32)

    def key_block(of_q_YBKMH: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        keys_BKSH, values_BKSH = keys_YBKXH[j], values_YBKXH[j]

        def query_block(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            of_q_YBKMH, of_keys_BKSH, of_values_BKSH = state
            q_BKMH, of_out_BKMH = q_YBKMH[i], of_out_YBKMH[i]
            score_BKGTS, bounded_BKGTS = _scores(settings, pairs, q_BKMH, keys_BKSH, i, j)
            score_BKMS = score_BKGTS.reshape(*q_BKMH.shape[:3], -1)
            weight_BKMS = jnp.exp(score_BKMS - logsumexp_YBKM[i][..., None])
            of_weight_BKMS = _product("BKMH,BKSH->BKMS", of_out_BKMH, values_BKSH)
            factor, dropped_BKMS = pairs.dropout_factor(i, j, weight_BKMS.shape, settings.dropout), weight_BKMS
            if factor is not None:
                dropped_BKMS, of_weight_BKMS = weight_BKMS * factor, of_weight_BKMS * factor
            of_values_BKSH += _product("BKMS,BKMH->BKSH", dropped_BKMS.astype(dtype), of_out_BKMH)
            of_score_BKMS = weight_BKMS * (of_weight_BKMS - mean_YBKM[i][..., None]) * settings.scale
            if settings.softcap is not None:
                of_score_BKMS *= 1 - jnp.square(bounded_BKGTS.reshape(score_BKMS.shape) / settings.softcap)
            of_score_BKMS = of_score_BKMS.astype(dtype)
            of_keys_BKSH += _product("BKMS,BKMH->BKSH", of_score_BKMS, q_BKMH)
            of_q_YBKMH = of_q_YBKMH.at[i].add(_product("BKMS,BKSH->BKMH", of_score_BKMS, keys_BKSH))
            return of_q_YBKMH, of_keys_BKSH, of_values_BKSH

        nothing_BKSH = jnp.zeros(keys_BKSH.shape)
        state = of_q_YBKMH, nothing_BKSH, nothing_BKSH
        of_q_YBKMH, *of_block = jax.lax.fori_loop(*_range(pairs.meet_YY[:, j]), query_block, state)
        of_keys_BKSH, of_values_BKSH = (x.astype(dtype) for x in of_block)
        return of_q_YBKMH, (of_keys_BKSH, of_values_BKSH)

    indices = jnp.arange(len(q_YBKMH))
    of_q_YBKMH, (of_keys_YBKXH, of_values_YBKXH) = jax.lax.scan(key_block, jnp.zeros(q_YBKMH.shape), indices)
    of_sinks_N = None
    if sinks_N is not None:
        _, B, K, M, _ = q_YBKMH.shape
        weight_YBKM = jnp.exp(_per_query(sinks_N, B, K, M) - logsumexp_YBKM)
        per_group = (weight_YBKM * mean_YBKM).reshape(len(indices), B, K, len(sinks_N) // K, -1)
        of_sinks_N = -per_group.sum((0, 1, 4)).reshape(-1).astype(sinks_N.dtype)
    return of_q_YBKMH.astype(dtype), of_keys_YBKXH, of_values_YBKXH, of_sinks_N, None


_attend.defvjp(_forward, _backward)


def _product(axes: str, a: Array, b: Array) -> Array:
    product: Array = jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
    return product


def _per_query(sinks_N: Array, B: int, K: int, M: int) -> Array:
    """Each query's sink, float32 [B, K, M]."""
    G = len(sinks_N) // K
    return jnp.broadcast_to(sinks_N.astype(jnp.float32).reshape(1, K, G, 1), (B, K, G, M // G)).reshape(B, K, M)
