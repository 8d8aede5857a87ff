"""The inputs of DecoderModel.forward, checked and laid out for JAX."""

import torch
from torch import Tensor, nn

from llm_jax.config import ModelConfig

KeyValues = list[tuple[Tensor, Tensor]]
MIN_CAPACITY = 64  # tokens


def check_ids(config: ModelConfig, input_ids: Tensor, past: int, device: torch.device) -> None:
    """Raises what `DecoderModel.forward` says."""
    if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
        raise ValueError(f"input_ids is {input_ids.dtype} {list(input_ids.shape)}; ids [B, T] are expected.")
    if input_ids.device != device:
        raise RuntimeError(f"input_ids is on {input_ids.device} and the model on {device}; move one to the other.")
    length = past + input_ids.shape[1]
    if length > config.max_seq_len:
        raise ValueError(f"{length} tokens are longer than max_seq_len, which is {config.max_seq_len}.")
    if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < config.vocab_size:
        raise IndexError(f"input_ids holds an id outside 0 to {config.vocab_size - 1}.")


def cache_capacity(config: ModelConfig, length: int) -> int:
    """Tokens that keys and values are padded to: a power of two, so that decoding compiles a handful of programs."""
    return min(max(MIN_CAPACITY, 1 << (length - 1).bit_length()), config.max_seq_len)


def pad_to_capacity(
    config: ModelConfig, past_key_values: KeyValues | None, capacity: int, like: Tensor, batch: int
) -> list[Tensor]:
    """k, v, k, v … of all layers, [B, K, capacity, H], of the dtype and on the device of `like`.

    Raises ValueError if they are not what an earlier call with this batch size returned.
    """
    empty = like.new_empty(batch, config.kv_heads, 0, config.head_size)
    pairs = past_key_values or [(empty, empty)] * config.num_layers
    expected = (batch, config.kv_heads, pairs[0][0].shape[2], config.head_size)
    if len(pairs) != config.num_layers or any(x.shape != expected for pair in pairs for x in pair):
        raise ValueError(
            f"past_key_values must be (k, v) of shape {list(expected)} for each of {config.num_layers} layers: "
            "pass what an earlier call returned, for the same number of rows."
        )
    return [nn.functional.pad(x.to(like.dtype), (0, 0, 0, capacity - x.shape[2])) for pair in pairs for x in pair]


def allowed(attn_mask: Tensor, expected: tuple[int, int, int], capacity: int) -> Tensor:
    """JAX's mask (True = may attend) [B, 1, T, capacity] from torch's (True = hidden); `expected` is B, T, S."""
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
    return nn.functional.pad(~mask.expand(B, 1, T, S), (0, capacity - S), value=True)
