"""Token positions: sinusoidal tables, rotary angles, ALiBi slopes."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig, RopeScaling


def sinusoidal_table(max_seq_len: int, hidden_size: int) -> np.ndarray:
    """Fixed position encodings [max_seq_len, hidden_size], float32; even columns sine, odd columns cosine.

    Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 3.5.
    """
    position = np.arange(max_seq_len, dtype=np.float32)[:, None]
    frequency = np.exp(np.arange(0, hidden_size, 2, dtype=np.float32) * np.float32(-math.log(10000.0) / hidden_size))
    table = np.empty((max_seq_len, hidden_size), np.float32)
    table[:, 0::2] = np.sin(position * frequency)
    table[:, 1::2] = np.cos(position * frequency)
    return table


def rope_frequencies(
    rotary_dim: int, theta: float, scaling: RopeScaling | None = None, *, is_long: bool = False
) -> np.ndarray:
    """Radians per position of each rotated pair, [rotary_dim / 2] float32 (RoFormer, arXiv:2104.09864).

    Args:
        is_long: the model's context is longer than that of its pre-training.
    """
    frequency = 1.0 / theta ** (np.arange(0, rotary_dim, 2, dtype=np.float32) / rotary_dim)
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "longrope":
        factors = scaling.long_factors if is_long and scaling.long_factors else scaling.factors
        return (frequency / np.array(factors, np.float32)).astype(np.float32)
    if scaling.kind == "yarn":
        share = _yarn_share(rotary_dim, theta, scaling)
        return (share * frequency + (1 - share) * frequency / scaling.factor).astype(np.float32)
    # Llama 3.1: wavelengths well inside the original context stay, those beyond it are stretched by `factor`,
    # and between the two bounds the scale is interpolated linearly in (context / wavelength).
    turns = scaling.original_max_seq_len * frequency / (2 * math.pi)
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    ramp = np.clip(ramp, 0.0, 1.0)
    return ((1 - ramp) * frequency / scaling.factor + ramp * frequency).astype(np.float32)


def _yarn_share(rotary_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """The share of each pair's frequency that YaRN leaves as it was, [rotary_dim / 2]: section 3.2 of the paper.

    Pairs are counted from the fastest; the ramp runs over their index, its ends widened to whole numbers if truncated.
    """

    def pair_turning(times: float) -> float:
        return rotary_dim * math.log(scaling.original_max_seq_len / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    pair = np.arange(rotary_dim // 2, dtype=np.float32)
    return 1 - np.clip((pair - first) / max(last - first, 1e-3), 0.0, 1.0)


def rotary_tables(position_BT: Array, frequencies_h: np.ndarray, magnitude: float) -> tuple[Array, Array]:
    """Cosines and sines [B, T, h] of the angles at these positions, float32, times `magnitude`."""
    angle_BTh = position_BT[:, :, None].astype(jnp.float32) * frequencies_h
    return jnp.cos(angle_BTh) * magnitude, jnp.sin(angle_BTh) * magnitude


def alibi_slopes(num_heads: int) -> np.ndarray:
    """What each head subtracts per token of distance, [N] float32 (Press et al. 2022, arXiv:2108.12409)."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    power = 2 ** int(math.log2(num_heads))
    # Beyond a power of two the paper's code takes every second slope of the next power.
    extra = geometric(2 * power)[0::2][: num_heads - power]
    return np.array(geometric(power) + extra, np.float32)


def layer_rotation(config: ModelConfig, layer: int) -> tuple[np.ndarray, float] | None:
    """The frequencies and the magnitude by which one layer rotates, None where the model does not."""
    if not config.rotates(layer):
        return None
    if config.window(layer) is not None and config.window_rope_theta is not None:
        return rope_frequencies(config.rotary_dim, config.window_rope_theta), 1.0
    scaling = config.rope_scaling
    magnitude = 1.0 if scaling is None else scaling.magnitude
    is_long = scaling is not None and config.max_seq_len > scaling.original_max_seq_len
    return rope_frequencies(config.rotary_dim, config.rope_theta, scaling, is_long=is_long), magnitude
