"""Attention as the formula is written, by torch in float64: what the kernels are compared with."""

import jax
import numpy as np
import torch


def rotated(x, cosine, sine):
    cosine, sine = (torch.tensor(np.asarray(table, np.float64))[:, :, None] for table in (cosine, sine))
    h = cosine.shape[-1]
    first, second = x[..., :h], x[..., h : 2 * h]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, x[..., 2 * h :]], -1)


def plain(qkv, sinks, settings, arrays, *, kv_heads, rotary=None, retained=None):
    """Written as the formula is, on float64 tensors.

    Args:
        sinks: [N], or None.
        arrays: position_BT, segment_BT, allowed; all but the first may be None.
        rotary: cosines and sines [B, T, h], which q and k are rotated by.
        retained: what weights are multiplied with, for dropout.
    """
    B, T, J, _ = qkv.shape
    N = J - 2 * kv_heads
    if rotary is not None:
        qkv = torch.cat([rotated(qkv[:, :, : N + kv_heads], *rotary), qkv[:, :, N + kv_heads :]], 2)
    q, k, v = qkv.split([N, kv_heads, kv_heads], dim=2)
    k, v = (x.repeat_interleave(N // kv_heads, dim=2) for x in (k, v))
    score = torch.einsum("btnh,bsnh->bnts", q, k) * settings.scale
    if settings.softcap is not None:
        score = settings.softcap * torch.tanh(score / settings.softcap)
    position = torch.tensor(np.array(arrays["position_BT"]))
    distance = (position[:, :, None] - position[:, None, :])[:, None]
    if settings.slopes_N is not None:
        score = score - torch.tensor(settings.slopes_N)[:, None, None] * distance.abs()
    seen = torch.ones_like(distance, dtype=torch.bool)
    if settings.is_causal:
        seen &= distance >= 0
    if settings.window is not None:
        seen &= distance.abs() < settings.window
    if arrays["segment_BT"] is not None:
        segment = torch.tensor(arrays["segment_BT"])
        seen &= (segment[:, :, None] == segment[:, None, :])[:, None]
    if arrays["allowed"] is not None:
        seen &= torch.tensor(arrays["allowed"])
    score = score.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        score = torch.cat([score, sinks[:, None, None].expand(B, N, T, 1)], -1)
    weight = score.softmax(-1)[..., :T]
    weight = weight if retained is None else weight * retained
    return torch.einsum("bnts,bsnh->btnh", weight, v)


def compare(run, settings, arrays, qkv, of_out, *, tolerance=1e-5, **options):
    """Values and gradients of `run(qkv, sinks)`; `options` are of `plain`."""
    sinks = arrays["sinks_N"]
    leaves = [None if x is None else torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (qkv, sinks)]
    expected = plain(*leaves, settings, arrays, **options)
    (expected * torch.tensor(of_out)).sum().backward()
    out, pull_back = jax.vjp(run, qkv, sinks)
    np.testing.assert_allclose(out, expected.detach(), rtol=0, atol=tolerance / 5)
    for gradient, leaf in zip(pull_back(of_out), leaves, strict=True):
        if leaf is not None:
            np.testing.assert_allclose(gradient, leaf.grad, rtol=0, atol=tolerance)
