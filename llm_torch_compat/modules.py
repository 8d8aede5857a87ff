"""The parts of DecoderModel: they hold parameters under the documented names and compute nothing themselves."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llm_jax.config import ModelConfig
from llm_jax.model import initial_distribution, sinusoidal_table

Factory = dict[str, Any]  # device and dtype, as torch's own modules take them


class SinusoidalPositions(nn.Module):
    """Holds the buffer `pe` [1, S, D]."""

    pe: torch.Tensor

    def __init__(self, config: ModelConfig, factory: Factory) -> None:
        super().__init__()
        table = torch.from_numpy(sinusoidal_table(config.max_seq_len, config.hidden_size))
        self.register_buffer("pe", table[None].to(**factory))


class LearnedPositions(nn.Module):
    """Holds the table [S, D]."""

    def __init__(self, config: ModelConfig, factory: Factory) -> None:
        super().__init__()
        self.pos_embedding = nn.Embedding(config.max_seq_len, config.hidden_size, **factory)


class EmbeddingLayer(nn.Module):
    def __init__(self, config: ModelConfig, factory: Factory) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.padding_idx, **factory
        )
        if config.positions == "sinusoidal":
            self.positional_encoding: nn.Module = SinusoidalPositions(config, factory)
        elif config.positions == "learned":
            self.positional_encoding = LearnedPositions(config, factory)


class SelfAttention(nn.Module):
    """Rows of `qkv_proj`: all query heads, then keys, then values."""

    def __init__(self, config: ModelConfig, factory: Factory) -> None:
        super().__init__()
        N, K, H, D = config.num_heads, config.kv_heads, config.head_size, config.hidden_size
        self.qkv_proj = nn.Linear(D, (N + 2 * K) * H, bias=config.qkv_bias, **factory)
        self.out_proj = nn.Linear(N * H, D, bias=config.has_out_bias, **factory)
        if config.qk_norm is not None:
            width = config.qk_norm == "width"
            self.q_norm = _rms_norm(N * H if width else H, config, factory)
            self.k_norm = _rms_norm(K * H if width else H, config, factory)
        if config.attention_sinks:
            self.sinks = nn.Parameter(torch.zeros(N, **factory))


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig, size: int, factory: Factory) -> None:
        super().__init__()
        D, F, bias = config.hidden_size, size, config.mlp_bias
        self.fc1 = nn.Linear(D, F, bias=bias, **factory)
        if config.use_glu:
            self.gate_proj = nn.Linear(D, F, bias=bias, **factory)
        self.fc2 = nn.Linear(F, D, bias=bias, **factory)


class Experts(nn.Module):
    """One linear map per expert, stacked: weight [E, out, in], bias [E, out]."""

    def __init__(self, experts: int, size_in: int, size_out: int, *, bias: bool, factory: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, size_out, size_in, **factory))
        self.bias = nn.Parameter(torch.empty(experts, size_out, **factory)) if bias else None


class MixtureOfExperts(nn.Module):
    def __init__(self, config: ModelConfig, factory: Factory) -> None:
        super().__init__()
        E, D, F, bias = config.num_experts, config.hidden_size, config.ffn_size, config.mlp_bias
        self.router = nn.Linear(D, E, bias=config.router_bias, **factory)
        if config.router == "sigmoid":
            self.router.correction = nn.Parameter(torch.zeros(E, **factory))
        self.experts = nn.Module()
        self.experts.fc1 = Experts(E, D, F, bias=bias, factory=factory)
        if config.use_glu:
            self.experts.gate_proj = Experts(E, D, F, bias=bias, factory=factory)
        self.experts.fc2 = Experts(E, F, D, bias=bias, factory=factory)
        if config.shared_expert_size is not None:
            self.shared_expert = FeedForward(config, config.shared_expert_size, factory)
        if config.shared_expert_gate:
            self.shared_expert_gate = nn.Linear(D, 1, bias=False, **factory)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, norm: nn.Module, factory: Factory) -> None:
        super().__init__()
        if config.input_norm:
            self.norm1 = copy.deepcopy(norm)
        self.self_attn = SelfAttention(config, factory)
        if config.input_norm and not config.shared_norm:
            self.norm2 = copy.deepcopy(norm)
        if config.sandwich_norm:
            self.post_attn_norm = copy.deepcopy(norm)
            self.post_mlp_norm = copy.deepcopy(norm)
        if config.has_experts(layer):
            self.mlp: nn.Module = MixtureOfExperts(config, factory)
        else:
            self.mlp = FeedForward(config, config.dense_ffn_size, factory)


def make_norm(config: ModelConfig, factory: Factory) -> nn.Module:
    if config.norm == "rms_norm":
        return _rms_norm(config.hidden_size, config, factory)
    norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias, **factory)
    nn.init.constant_(norm.weight, 1.0 - config.norm_offset)
    return norm


def _rms_norm(size: int, config: ModelConfig, factory: Factory) -> nn.RMSNorm:
    norm = nn.RMSNorm(size, eps=config.norm_eps, **factory)
    nn.init.constant_(norm.weight, 1.0 - config.norm_offset)
    return norm


def check_norm(norm: nn.Module, hidden_size: int) -> float:
    """The epsilon of a norm that is given as an instance. Raises ValueError for one that cannot be computed."""
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        raise ValueError(f"norm_type is a {type(norm).__name__}; it must be nn.LayerNorm or nn.RMSNorm.")
    if tuple(norm.normalized_shape) != (hidden_size,):
        raise ValueError(f"norm_type normalises {norm.normalized_shape}; hidden_size is {hidden_size}.")
    if norm.weight is None or (isinstance(norm, nn.LayerNorm) and norm.bias is None):
        raise ValueError("norm_type has no weight or no bias; the documented state_dict has both.")
    return torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig) -> None:
    """What `llm_jax.model.init_params` draws, drawn by torch: normal weights, shrunk where the residual is fed."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            continue  # ones and zeros, or the values of the caller's instance
        mean, deviation = initial_distribution(config, name)
        parameter.normal_(mean, deviation)
        if name == "embedding_layer.token_embeddings.weight" and config.padding_idx is not None:
            parameter[config.padding_idx].zero_()


def own_parameters(model: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, nn.Parameter]:
    """The parameters by name.

    Raises RuntimeError where a part has a hook, which would never run, or parameters of other names or shapes.
    """
    for name, part in model.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        if part is not model and any(hooks):
            raise RuntimeError(
                f"{name} has a hook, which would never run: JAX computes the model as a whole. Hooks on the model "
                "itself, and on parameters, do run."
            )
    parameters = dict(model.named_parameters(remove_duplicate=False))  # tied weights are listed under both names
    if {name: parameter.shape for name, parameter in parameters.items()} != shapes:
        changed = {name for name, parameter in parameters.items() if shapes.get(name) != parameter.shape}
        names = ", ".join(sorted(changed or shapes.keys() - parameters.keys())[:3])
        raise RuntimeError(
            f"A part was replaced, resized or parametrised ({names}); JAX computes the architecture that the model was "
            "made with, from its own parameters. Make a model of the other shape and load the weights into it."
        )
    return parameters
