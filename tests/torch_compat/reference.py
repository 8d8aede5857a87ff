"""The documented architecture in plain torch, written for reading: what DecoderModel has to compute.

It takes a DecoderModel's own parameters by their documented names, so that values and gradients can be compared.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def reference_logits(
    weights: Mapping[str, Tensor], arguments: Mapping[str, Any], ids: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """Logits [B, T, V].

    Args:
        weights: parameters and buffers under the documented names.
        arguments: DecoderModel's keyword arguments.
        ids: int [B, T].
        hidden: bool, broadcastable to [B, 1, T, T]; True = may not be seen.
    """
    T = ids.shape[1]
    rms = "RMSNorm" in str(arguments.get("norm_type", "")) or arguments.get("norm_impl") == "rms_norm"
    first = arguments.get("norm_first", True)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        eps = arguments.get("norm_eps", 1e-5)
        if rms:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"]
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    table = weights["embedding_layer.token_embeddings.weight"]
    x = F.embedding(ids, table, padding_idx=arguments.get("padding_idx")) * math.sqrt(arguments["hidden_size"])
    absolute = not arguments.get("use_rope") and not arguments.get("use_alibi")
    if arguments.get("pos_encoding_learned"):
        x = x + weights["embedding_layer.positional_encoding.pos_embedding.weight"][:T]
    elif absolute:
        x = x + weights["embedding_layer.positional_encoding.pe"][:, :T]

    for i in range(arguments["num_layers"]):
        block = f"transformer_blocks.{i}"

        def attention(x: Tensor, block: str = block) -> Tensor:
            return linear(
                _attend(linear(x, f"{block}.self_attn.qkv_proj"), arguments, hidden), f"{block}.self_attn.out_proj"
            )

        def feed_forward(x: Tensor, block: str = block) -> Tensor:
            if arguments.get("use_moe"):
                return _experts(x, weights, f"{block}.mlp", arguments)
            act = ACTIVATIONS[arguments.get("mlp_activation", "gelu")]
            h = act(linear(x, f"{block}.mlp.fc1"))
            h = h * linear(x, f"{block}.mlp.gate_proj") if arguments.get("use_glu") else h
            return linear(h, f"{block}.mlp.fc2")

        if first:
            x = x + attention(norm(x, f"{block}.norm1"))
            x = x + feed_forward(norm(x, f"{block}.norm2"))
        else:
            x = norm(x + attention(x), f"{block}.norm1")
            x = norm(x + feed_forward(x), f"{block}.norm2")
    x = norm(x, "final_norm") if first else x
    return linear(x, "lm_head")


def _attend(qkv: Tensor, arguments: Mapping[str, Any], hidden: Tensor | None) -> Tensor:
    B, T, _ = qkv.shape
    N = arguments["num_heads"]
    K = arguments.get("num_kv_heads") or N
    H = arguments["hidden_size"] // N
    q, k, v = (x.view(B, T, -1, H).transpose(1, 2) for x in qkv.split([N * H, K * H, K * H], dim=-1))
    if arguments.get("use_rope"):
        q, k = _rotate(q, arguments), _rotate(k, arguments)
    k, v = (x.repeat_interleave(N // K, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(H)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    if arguments.get("use_alibi"):
        assert N & (N - 1) == 0, "the slopes below are those of a power of two"
        slopes = torch.tensor([2 ** (-8 * (n + 1) / N) for n in range(N)])
        scores = scores - slopes[:, None, None] * distance.abs()
    never = torch.zeros(T, T, dtype=torch.bool)
    if arguments.get("is_causal", True):
        never = never | (distance < 0)
    if arguments.get("window_size"):
        never = never | (distance.abs() >= arguments["window_size"])
    if hidden is not None:
        never = never | hidden
    probabilities = scores.masked_fill(never, -math.inf).softmax(-1)
    return (probabilities @ v).transpose(1, 2).reshape(B, T, N * H)


def _rotate(x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    H, T = x.shape[-1], x.shape[-2]
    frequency = 1 / arguments.get("rope_theta", 10000.0) ** (torch.arange(0, H, 2) / H)
    angle = torch.arange(T)[:, None] * frequency
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def _experts(x: Tensor, weights: Mapping[str, Tensor], name: str, arguments: Mapping[str, Any]) -> Tensor:
    """Every expert computes every token; the top_k ones count, weighted by a softmax over all that sums to one."""
    act = ACTIVATIONS[arguments.get("mlp_activation", "gelu")]
    probability = F.linear(x, weights[f"{name}.router.weight"]).softmax(-1)
    chosen, index = probability.topk(arguments["top_k"], dim=-1)
    share = torch.zeros_like(probability).scatter(-1, index, chosen / chosen.sum(-1, keepdim=True))

    def expert(e: int, part: str, x: Tensor) -> Tensor:
        bias = weights.get(f"{name}.experts.{part}.bias")
        return F.linear(x, weights[f"{name}.experts.{part}.weight"][e], None if bias is None else bias[e])

    out = torch.zeros_like(x)
    for e in range(arguments["num_experts"]):
        h = act(expert(e, "fc1", x))
        h = h * expert(e, "gate_proj", x) if arguments.get("use_glu") else h
        out = out + share[..., e : e + 1] * expert(e, "fc2", h)
    return out
