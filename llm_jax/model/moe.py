"""A mixture of experts: each token visits its top_k feed-forward blocks (arXiv:1701.06538, arXiv:2401.04088)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import ACTIVATIONS
from llm_jax.model.layers import INIT_STD, AnyNorm, Linear, add_to, normal, residual_std


class Experts(nnx.Module):
    """One linear map per expert, stacked: weight [E, out, in], bias [E, out]."""

    def __init__(
        self, experts: int, size_in: int, size_out: int, *, bias: bool, rngs: nnx.Rngs, std: float = INIT_STD
    ) -> None:
        self.weight = normal(rngs, (experts, size_out, size_in), std)
        self.bias = nnx.Param(jnp.zeros((experts, size_out))) if bias else None

    def __call__(self, x_MI: Array, expert_M: Array, count_E: Array) -> Array:
        """The rows x_MI must be sorted by expert; XLA multiplies each group with its own weight."""
        y = jax.lax.ragged_dot(x_MI, self.weight[...].astype(x_MI.dtype).swapaxes(1, 2), count_E)
        return y if self.bias is None else y + self.bias[...].astype(x_MI.dtype)[expert_M]


class ExpertStack(nnx.Module):
    """The feed-forward weights of all experts."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        E, D, F, bias = config.num_experts, config.hidden_size, config.ffn_size, config.mlp_bias
        self.fc1 = Experts(E, D, F, bias=bias, rngs=rngs)
        self.gate_proj = Experts(E, D, F, bias=bias, rngs=rngs) if config.use_glu else None
        self.fc2 = Experts(E, F, D, bias=bias, rngs=rngs, std=residual_std(config))
        self.activation = config.activation

    def __call__(self, x_MD: Array, expert_M: Array, count_E: Array) -> Array:
        hidden = ACTIVATIONS[self.activation](self.fc1(x_MD, expert_M, count_E))
        if self.gate_proj is not None:
            hidden = hidden * self.gate_proj(x_MD, expert_M, count_E)
        return self.fc2(hidden, expert_M, count_E)


class MixtureOfExperts(nnx.Module):
    """Routes on device: rows are sorted by expert, multiplied in groups, and scattered back weighted."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.router = Linear(config.hidden_size, config.num_experts, bias=False, rngs=rngs)
        self.experts = ExpertStack(config, rngs=rngs)
        self.num_experts = config.num_experts
        self.top_k = config.top_k
        self.renormalize = config.moe_renormalize
        self.dropout = config.dropout_rate(config.mlp_dropout)

    def __call__(
        self,
        x_BTD: Array,
        *,
        norm: AnyNorm | None = None,
        post_norm: AnyNorm | None = None,
        dropout_key: Array | None = None,
    ) -> Array:
        """x + post_norm(dropout(experts(norm(x)))), [B, T, D]."""
        normed_BTD = x_BTD if norm is None else norm(x_BTD)
        rows_MD = normed_BTD.reshape(-1, x_BTD.shape[-1])
        probability_ME = jax.nn.softmax(self.router(rows_MD).astype(jnp.float32), axis=-1)
        weight_Mk, expert_Mk = jax.lax.top_k(probability_ME, self.top_k)
        if self.renormalize:
            weight_Mk = weight_Mk / weight_Mk.sum(-1, keepdims=True)

        visit = expert_Mk.reshape(-1)  # one entry per (row, choice)
        order = jnp.argsort(visit, stable=True)
        source = order // self.top_k
        count_E = jnp.bincount(visit, length=self.num_experts).astype(jnp.int32)
        out = self.experts(rows_MD[source], visit[order], count_E)
        weighted = out * weight_Mk.reshape(-1)[order][:, None].astype(out.dtype)
        y_BTD = jnp.zeros_like(rows_MD).at[source].add(weighted).reshape(x_BTD.shape)
        return add_to(x_BTD, y_BTD, post_norm=post_norm, rate=self.dropout, dropout_key=dropout_key)
