"""DecoderModel: a torch.nn.Module to its user, computed by the JAX decoder on the module's own memory."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor, nn

from llm_jax.checkpoint import decoder_kwargs_to_config, decoder_model_buffers
from llm_jax.config import ModelConfig
from llm_jax.hub import from_pretrained, save_pretrained
from llm_jax.model import MutableModel
from llm_jax.tokenizers import Tokenizer
from llm_torch_compat.autograd import DecoderInputs, run
from llm_torch_compat.inputs import KeyValues, allowed, cache_capacity, check_ids, pad_to_capacity
from llm_torch_compat.modules import Block, EmbeddingLayer, Factory, check_norm, initialise, make_norm, own_parameters
from llm_torch_compat.views import ParameterViews, check_computable, to_jax, to_torch


class DecoderModel(nn.Module):
    """A decoder-only transformer with torch parameters, state_dict and autograd; JAX computes it without copies.

    The arguments are those of the table in docs/usage.md. `norm_type` may be nn.LayerNorm, nn.RMSNorm or an
    instance, which is copied into every layer with its weights. Parameters are drawn from torch's generator, so
    `torch.manual_seed` repeats them.

    The parts (`lm_head`, `transformer_blocks` …) hold parameters and compute nothing: hooks belong on the model.

    >>> model = DecoderModel(vocab_size=100, hidden_size=64, num_layers=2, num_heads=4)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 100])

    Raises:
        ConfigError (a ValueError): an argument is out of range, contradicts another, or cannot be honoured.
        TypeError, RuntimeError: the decoder cannot compute in that dtype, or on that device.
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
        given_norm = norm_type if isinstance(norm_type, nn.Module) else None
        if given_norm is not None:
            arguments["norm_eps"] = check_norm(given_norm, hidden_size)
        self._build(decoder_kwargs_to_config(arguments), given_norm, {"device": device, "dtype": dtype})

    @classmethod
    def from_config(
        cls, config: ModelConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A model of any architecture that a ModelConfig describes, with random weights."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._build(config, None, {"device": device, "dtype": dtype})
        return model

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The model at a path or of that name on the Hub, in eval mode; of every family that `llm_jax` reads.

        Raises what `llm_jax.from_pretrained` raises.
        """
        loaded = from_pretrained(name_or_path, revision=revision).model
        model = cls.from_config(loaded.config, device="meta")
        state = {name: to_torch(array) for name, array in loaded.params.items()}
        state |= {name: torch.from_numpy(array) for name, array in decoder_model_buffers(loaded.config).items()}
        model.load_state_dict(state, assign=True)
        return (model if dtype is None else model.to(dtype)).eval()

    def save_pretrained(self, directory: str | Path, tokenizer: Tokenizer | None = None) -> None:
        """Write a model directory, whole or not at all: what `from_pretrained`, `llm_jax` and the commands read.

        Raises CheckpointError where the path is taken by something that is not a model.
        """
        save_pretrained(directory, self.as_jax(), tokenizer)

    def _build(self, config: ModelConfig, given_norm: nn.Module | None, factory: Factory) -> None:
        self._config = config
        self._views = ParameterViews()
        norm = make_norm(config, factory) if given_norm is None else copy.deepcopy(given_norm).to(**factory)
        self.embedding_layer = EmbeddingLayer(config, factory)
        self.transformer_blocks = nn.ModuleList(Block(config, i, norm, factory) for i in range(config.num_layers))
        if config.norm_first:
            self.final_norm = norm
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias, **factory)
        check_computable("the model", self._table)
        initialise(self, config)
        self._shapes = {name: parameter.shape for name, parameter in self.named_parameters()}

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

    @property
    def _table(self) -> Tensor:
        return self.embedding_layer.token_embeddings.weight

    def as_jax(self) -> MutableModel:
        """The same model for `llm_jax`, over the same memory: a later change of a weight shows in it."""
        return MutableModel(self._config, self._views.of(own_parameters(self, self._shapes)))

    @torch.compiler.disable  # torch.compile has nothing left to compile here
    def forward(
        self,
        input_ids: Tensor,
        attn_mask: Tensor | None = None,
        past_key_values: KeyValues | None = None,
        use_cache: bool = False,
    ) -> Any:
        """Logits [B, T, V], or (logits, keys and values) with use_cache. Under torch.autocast in its dtype.

        Args:
            input_ids: int [B, T].
            attn_mask: bool, True = hidden; [T, S], [B, T, S] or broadcastable to [B, 1, T, S], where S counts
                past and new tokens. Causality is applied on top.
            past_key_values: what an earlier call returned: per layer (k, v), each [B, kv_heads, S, head_dim].
                Gradients flow into them, and through them into that call.
            use_cache: return them.

        Raises:
            ValueError: longer than max_seq_len, a mask of another shape or dtype, no tokens at all, or use_cache
                with gradient_checkpointing.
            IndexError: an id outside the vocabulary.
            RuntimeError: ids on another device, or parts that were changed such that JAX cannot follow.
        """
        if use_cache and self.gradient_checkpointing:
            raise ValueError("use_cache with gradient_checkpointing: call disable_gradient_checkpointing() first.")
        config, table = self._config, self._table
        parameters = own_parameters(self, self._shapes)
        past = past_key_values[0][0].shape[2] if past_key_values else 0
        check_ids(config, input_ids, past, table.device)
        (B, T), length = input_ids.shape, past + input_ids.shape[1]
        capacity, cached = length, []
        if use_cache or past:
            capacity = cache_capacity(config, length)
            cached = pad_to_capacity(config, past_key_values, capacity, like=table, batch=B)
        device = table.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        inputs = DecoderInputs(
            config=config,
            dtype=None if autocast is None else str(autocast).removeprefix("torch."),
            tokens_BT=to_jax(input_ids.to(torch.int32)),
            past=jnp.int32(past),
            mask=None if attn_mask is None else to_jax(allowed(attn_mask, (B, T, length), capacity)),
            dropout_key=self._dropout_key(),
        )
        logits, cached = run(inputs, parameters, self._views.of(parameters), cached)
        logits = logits.to(autocast or table.dtype)
        if not use_cache:
            return logits
        cached = [x[:, :, :length] for x in cached]
        return logits, list(zip(cached[0::2], cached[1::2], strict=True))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Every move and cast comes through here: one that could not be computed is refused before it is made."""
        check_computable("the model", fn(torch.empty(1, dtype=self._table.dtype, device=self._table.device)))
        return super()._apply(fn, recurse)

    def _dropout_key(self) -> Array | None:
        config = self._config
        rates = (config.embedding_dropout, config.attention_dropout, config.mlp_dropout)
        if not self.training or not any(config.dropout_rate(rate) for rate in rates):
            return None
        return jax.random.PRNGKey(
            int(torch.randint(2**31, ()))
        )  # plain numbers, which torch can keep for the backward pass
