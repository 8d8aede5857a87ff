"""DecoderModel: a torch.nn.Module to its user, computed by the JAX decoder on the module's own memory."""

import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor, nn

from llm_jax.checkpoint import decoder_kwargs_to_config
from llm_jax.config import ModelConfig
from llm_jax.model import KVCache, Model
from llm_torch_compat.autograd import Decode, Inputs, decode, flat_cache
from llm_torch_compat.modules import Block, EmbeddingLayer, Factory, initialise, make_norm
from llm_torch_compat.views import DTYPES, ParameterViews, to_jax, to_torch

KeyValues = list[tuple[Tensor, Tensor]]
MIN_CAPACITY = 64


class DecoderModel(nn.Module):
    """A decoder-only transformer with torch parameters, state_dict and autograd; JAX computes it without copies.

    The arguments are those of the table in docs/usage.md. `norm_type` may be nn.LayerNorm, nn.RMSNorm or an
    instance, which is copied to every place with its weights. Parameters are drawn from torch's generator, so
    `torch.manual_seed` repeats them.

    Raises:
        ConfigError (a ValueError): an argument is out of range, contradicts another, or cannot be honoured.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        max_seq_len: int = 512,
        intermediate_size: int | None = None,
        pos_encoding_learned: bool = False,
        embedding_dropout_p: float = 0.1,
        attn_dropout_p: float = 0.1,
        mlp_dropout_p: float = 0.1,
        mlp_activation: str = "gelu",
        norm_eps: float = 1e-5,
        norm_first: bool = True,
        is_causal: bool = True,
        padding_idx: int | None = None,
        qkv_bias: bool = True,
        mlp_bias: bool = True,
        lm_head_bias: bool = True,
        num_kv_heads: int | None = None,
        use_glu: bool = False,
        norm_type: type[nn.Module] | nn.Module = nn.LayerNorm,
        norm_impl: str = "layer_norm",
        use_moe: bool = False,
        num_experts: int = 0,
        top_k: int = 0,
        window_size: int | None = None,
        use_rope: bool = False,
        rope_theta: float = 10000.0,
        use_alibi: bool = False,
        gradient_checkpointing: bool = False,
        attn_impl: str = "mha",
        mlp_impl: str = "mlp",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}; the decoder computes in float32, bfloat16 or float16.")
        if isinstance(norm_type, nn.Module):
            arguments["norm_eps"] = _check_norm(norm_type, hidden_size)
        self._config = decoder_kwargs_to_config(arguments)
        self._views = ParameterViews()

        config = self._config
        factory: Factory = {"device": device, "dtype": dtype}
        norm = make_norm(config, factory)
        if isinstance(norm_type, nn.Module):
            norm = copy.deepcopy(norm_type).to(**factory)
        self.embedding_layer = EmbeddingLayer(config, factory)
        self.transformer_blocks = nn.ModuleList(Block(config, norm, factory) for _ in range(num_layers))
        if config.norm_first:
            self.final_norm = norm
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=lm_head_bias, **factory)
        initialise(self, config)

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def vocab_size(self) -> int:
        return self._config.vocab_size

    @property
    def hidden_size(self) -> int:
        return self._config.hidden_size

    @property
    def num_layers(self) -> int:
        return self._config.num_layers

    @property
    def num_heads(self) -> int:
        return self._config.num_heads

    @property
    def max_seq_len(self) -> int:
        return self._config.max_seq_len

    @property
    def norm_first(self) -> bool:
        return self._config.norm_first

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes each block's activations in the backward pass instead of keeping them."""
        return self._config.gradient_checkpointing

    def enable_gradient_checkpointing(self) -> None:
        self._config = replace(self._config, gradient_checkpointing=True)

    def disable_gradient_checkpointing(self) -> None:
        self._config = replace(self._config, gradient_checkpointing=False)

    def as_jax(self) -> Model:
        """The same model for `llm_jax`, over the same memory: a later change of a weight shows in it."""
        return Model(self._config, self._views.of(self))

    def forward(
        self,
        input_ids: Tensor,
        attn_mask: Tensor | None = None,
        past_key_values: KeyValues | None = None,
        use_cache: bool = False,
    ) -> Any:
        """Logits [B, T, V], or (logits, keys and values) with use_cache.

        Args:
            input_ids: int [B, T].
            attn_mask: bool, True = hidden; [T, S], [B, T, S] or broadcastable to [B, 1, T, S], where S counts
                past and new tokens. Causality is applied on top.
            past_key_values: what an earlier call returned: per layer (k, v), each [B, kv_heads, S, head_dim].
            use_cache: return them. They carry no gradient.

        Raises:
            ValueError: longer than max_seq_len, a mask of another shape or dtype, no tokens at all, or use_cache
                with gradient_checkpointing.
            IndexError: an id outside the vocabulary.
        """
        past = past_key_values[0][0].shape[2] if past_key_values else 0
        self._check(input_ids, past, use_cache)
        length = past + input_ids.shape[1]
        tokens = to_jax(input_ids.to(torch.int32))
        inputs: Inputs = {"dropout_key": self._dropout_key()}
        room = length
        if use_cache or past:
            room = self._capacity(length)
            inputs["cache"] = self._cache(input_ids.shape[0], past_key_values or [], past, room)
        if attn_mask is not None:
            inputs["mask"] = _allowed(attn_mask, (*input_ids.shape, length), room)

        views = self._views.of(self)
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad and torch.is_grad_enabled()}
        if trained:
            logits, *kept = Decode.apply(self._config, views, tokens, inputs, tuple(trained), *trained.values())
        else:
            computed, cache = decode(self._config, views, tokens, inputs)
            logits, kept = to_torch(computed), flat_cache(cache)
        logits = logits.to(self.lm_head.weight.dtype)
        if not use_cache:
            return logits
        kept = [x[:, :, :length] for x in kept]
        return logits, list(zip(kept[0::2], kept[1::2], strict=True))

    def _check(self, input_ids: Tensor, past: int, use_cache: bool) -> None:
        if use_cache and self.gradient_checkpointing:
            raise ValueError("use_cache with gradient_checkpointing: call disable_gradient_checkpointing() first.")
        if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
            raise ValueError(f"input_ids is {input_ids.dtype} {list(input_ids.shape)}; ids [B, T] are expected.")
        length = past + input_ids.shape[1]
        if length > self.max_seq_len:
            raise ValueError(f"{length} tokens are longer than max_seq_len, which is {self.max_seq_len}.")
        if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.vocab_size:
            raise IndexError(f"input_ids holds an id outside 0 to {self.vocab_size - 1}.")

    def _dropout_key(self) -> Array | None:
        config = self._config
        rates = (config.embedding_dropout, config.attention_dropout, config.mlp_dropout)
        if not self.training or not any(config.dropout_rate(rate) for rate in rates):
            return None
        return jax.random.key(int(torch.randint(2**31, ())))

    def _capacity(self, length: int) -> int:
        """Caches grow by doubling, so that decoding token by token compiles a handful of programs."""
        return min(max(MIN_CAPACITY, 1 << (length - 1).bit_length()), self.max_seq_len)

    def _cache(self, batch: int, past_key_values: KeyValues, past: int, capacity: int) -> KVCache:
        dtype, device = self.lm_head.weight.dtype, self.lm_head.weight.device
        config = self._config
        empty = torch.zeros(batch, config.kv_heads, 0, config.head_size, dtype=dtype, device=device)
        pairs = past_key_values or [(empty, empty)] * config.num_layers
        expected = (batch, config.kv_heads, past, config.head_size)
        if len(pairs) != config.num_layers or any(x.shape != expected for pair in pairs for x in pair):
            raise ValueError(
                f"past_key_values must be (k, v) of shape {list(expected)} for each of {config.num_layers} layers: "
                "pass what an earlier call returned, for the same number of rows."
            )
        keys, values = (
            [to_jax(nn.functional.pad(pair[i].to(dtype), (0, 0, 0, capacity - past))) for pair in pairs] for i in (0, 1)
        )
        return KVCache(keys=keys, values=values, length_B=jnp.full(batch, past, jnp.int32))


def _allowed(attn_mask: Tensor, expected: tuple[int, int, int], room: int) -> Array:
    """JAX's mask (True = may attend) [B, 1, T, room] from torch's (True = hidden), which fits B, T, S = expected."""
    B, T, S = expected
    mask = attn_mask.unsqueeze(1) if attn_mask.ndim == 3 else attn_mask
    fits = mask.ndim <= 4 and all(
        size in (1, wanted) for size, wanted in zip(mask.shape[::-1], (S, T, 1, B), strict=False)
    )
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"attn_mask is {attn_mask.dtype} {list(attn_mask.shape)}; expected is a bool mask (True = hidden) "
            f"[T, S], [B, T, S] or [B, 1, T, S], with B = {B}, T = {T}, S = {S} or 1 each, and one for all heads."
        )
    return to_jax(nn.functional.pad(~mask.expand(B, 1, T, S), (0, room - S), value=True))


def _check_norm(norm: nn.Module, hidden_size: int) -> float:
    """The epsilon of a norm given as an instance."""
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        raise ValueError(f"norm_type is a {type(norm).__name__}; it must be nn.LayerNorm or nn.RMSNorm.")
    if tuple(norm.normalized_shape) != (hidden_size,):
        raise ValueError(f"norm_type normalises {norm.normalized_shape}; hidden_size is {hidden_size}.")
    if norm.weight is None or (isinstance(norm, nn.LayerNorm) and norm.bias is None):
        raise ValueError("norm_type has no weight or no bias; the documented state_dict has both.")
    return torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps
