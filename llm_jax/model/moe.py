"""A mixture of experts: each token visits its top_k feed-forward blocks (arXiv:1701.06538, arXiv:2401.04088)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import ACTIVATIONS
from llm_jax.model.layers import AnyNorm, FeedForward, Linear, SublayerEnd, normalised, parameter
from llm_jax.model.routing import Routing


class Experts(nnx.Module):
    """One linear map per expert, stacked: weight [E, out, in], bias [E, out]."""

    def __init__(self, experts: int, size_in: int, size_out: int, *, bias: bool) -> None:
        self.weight = parameter(experts, size_out, size_in)
        self.bias = parameter(experts, size_out) if bias else None

    def __call__(self, x_MI: Array, expert_M: Array, count_E: Array) -> Array:
        """The rows x_MI must be sorted by expert; XLA multiplies each group with its own weight."""
        y = jax.lax.ragged_dot(x_MI, self.weight[...].astype(x_MI.dtype).swapaxes(1, 2), count_E)
        return y if self.bias is None else y + self.bias[...].astype(x_MI.dtype)[expert_M]


class ExpertStack(nnx.Module):
    """The feed-forward weights of all experts."""

    def __init__(self, config: ModelConfig) -> None:
        E, D, F, bias = config.num_experts, config.hidden_size, config.ffn_size, config.mlp_bias
        self.fc1 = Experts(E, D, F, bias=bias)
        self.gate_proj = Experts(E, D, F, bias=bias) if config.use_glu else None
        self.fc2 = Experts(E, F, D, bias=bias)
        self.activation = config.activation
        self.clamp = config.expert_clamp

    def __call__(self, x_MD: Array, expert_M: Array, count_E: Array) -> Array:
        hidden = self.fc1(x_MD, expert_M, count_E)
        gate = None if self.gate_proj is None else self.gate_proj(x_MD, expert_M, count_E)
        if self.clamp is not None and gate is not None:
            hidden = jnp.minimum(hidden, self.clamp)
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden) * (jnp.clip(gate, -self.clamp, self.clamp) + 1)
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
            hidden = hidden if gate is None else hidden * gate
        return self.fc2(hidden, expert_M, count_E)


class Router(nnx.Module):
    """Chooses experts and their weights.

    Softmax over all scores, of which the largest are chosen, or a sigmoid of each; then `correction` decides with it
    which are chosen, and has no part in their weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.weight = parameter(config.num_experts, config.hidden_size)
        self.bias = parameter(config.num_experts) if config.router_bias else None
        self.correction = parameter(config.num_experts) if config.router == "sigmoid" else None
        self.config = config
        self.observe: Callable[[Array, Array], None] | None = None  # called with scores [M, E] and experts [M, k]

    def __call__(self, x_MD: Array) -> tuple[Array, Array]:
        """Weights [M, k] in float32 and experts [M, k]."""
        config = self.config
        score_ME = jnp.einsum("md,ed->me", x_MD, self.weight[...].astype(x_MD.dtype)).astype(jnp.float32)
        if self.bias is not None:
            score_ME = score_ME + self.bias[...].astype(jnp.float32)
        if self.correction is None:
            weight_Mk, expert_Mk = jax.lax.top_k(jax.nn.softmax(score_ME, axis=-1), config.top_k)
        else:
            sigmoid_ME = jax.nn.sigmoid(score_ME)
            _, expert_Mk = jax.lax.top_k(sigmoid_ME + self.correction[...].astype(jnp.float32), config.top_k)
            weight_Mk = jnp.take_along_axis(sigmoid_ME, expert_Mk, axis=-1)
        if self.observe is not None:
            self.observe(score_ME, expert_Mk)
        if config.moe_renormalize:
            weight_Mk = weight_Mk / weight_Mk.sum(-1, keepdims=True)
        return weight_Mk * config.expert_scale, expert_Mk

    def routing(self, counted_M: Array, score_ME: Array, expert_Mk: Array) -> Routing:
        """What the router did with the tokens that are counted (bool)."""
        if self.correction is None:
            probability_ME = jax.nn.softmax(score_ME, axis=-1)
        else:
            sigmoid_ME = jax.nn.sigmoid(score_ME)
            probability_ME = sigmoid_ME / sigmoid_ME.sum(-1, keepdims=True)
        weight_M = counted_M.astype(jnp.float32)
        visit_ME = jax.nn.one_hot(expert_Mk, self.config.num_experts).sum(1)
        squared_M = jnp.square(jax.nn.logsumexp(score_ME, axis=-1))
        return Routing(weight_M @ visit_ME, weight_M @ probability_ME, weight_M @ squared_M, weight_M.sum())


class MixtureOfExperts(nnx.Module):
    """Routes on device: rows are sorted by expert, multiplied in groups, and scattered back weighted."""

    def __init__(self, config: ModelConfig) -> None:
        self.router = Router(config)
        self.experts = ExpertStack(config)
        size = config.shared_expert_size
        self.shared_expert = None if size is None else FeedForward(config, size)
        gate = Linear(config.hidden_size, 1, bias=False) if config.shared_expert_gate else None
        self.shared_expert_gate = gate
        self.num_experts = config.num_experts
        self.top_k = config.top_k

    def __call__(
        self, x_BTD: Array, residual_BTD: Array, norm: AnyNorm | None, end: SublayerEnd, dropout_key: Array | None
    ) -> Array:
        """The residual stream [B, T, D] with experts(norm(x)) added."""
        x_BTD = normalised(x_BTD, norm)
        rows_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
        weight_Mk, expert_Mk = self.router(rows_MD)
        visit = expert_Mk.reshape(-1)  # one entry per (row, choice)
        order = jnp.argsort(visit, stable=True)
        source = order // self.top_k
        count_E = jnp.bincount(visit, length=self.num_experts).astype(jnp.int32)
        out = self.experts(rows_MD[source], visit[order], count_E)
        weighted = out * weight_Mk.reshape(-1)[order][:, None].astype(out.dtype)
        y_BTD = jnp.zeros_like(rows_MD).at[source].add(weighted).reshape(x_BTD.shape)
        if self.shared_expert is not None:
            shared_BTD = self.shared_expert.output(x_BTD)
            if self.shared_expert_gate is not None:
                shared_BTD = shared_BTD * jax.nn.sigmoid(self.shared_expert_gate(x_BTD))
            y_BTD = y_BTD + shared_BTD
        return end(residual_BTD, y_BTD, dropout_key)
