"""What attention is given beside queries, keys and values."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

NO_BLOCK = np.iinfo(np.int32).max  # behind every block: nothing is written there, and zeros are read


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """One layer's attention; static.

    Attributes:
        scale: factor of the scores.
        softcap: squeezes scores into (-softcap, softcap).
        window: keys that a query sees, its own included.
        slopes_N: ALiBi's, float32, subtracted per token of distance.
        is_causal: a query sees no later key.
        dropout: share of the attention weights that training drops.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None
    slopes_N: np.ndarray | None = None
    is_causal: bool = True
    dropout: float = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ChunkLayout:
    """Where the new tokens [B, T] of R sequences go in the cache, and behind how many cached ones.

    Attributes:
        cached_R: int32, tokens of each sequence that are cached already.
        new_R: int32, how many of its new tokens count, from the first; the rest is padding, whose hidden states mean
            nothing.
        blocks: for each group of layers (`KVCache`) int32 [R, Y], the blocks that hold a sequence: its position p is in
            block p // X, X being a block's tokens. NO_BLOCK, or anything that the sequence neither writes nor sees,
            where it has none.
        starts: int32 [R + 1], where B is 1 and the tokens are those of all sequences in turn (ragged): sequence r has
            starts[r] … starts[r + 1] - 1. None where each of R = B sequences has T.
    """

    cached_R: Array
    new_R: Array
    blocks: tuple[Array, ...]
    starts: Array | None = None

    def advanced(self) -> "ChunkLayout":
        """The layout of as many new tokens behind these."""
        return replace(self, cached_R=self.cached_R + self.new_R)

    def sequences(self, shape: tuple[int, ...]) -> Array:
        """Each token's sequence, an index into R: int32 [B, T]."""
        B, T = shape
        if self.starts is None:
            return jnp.broadcast_to(jnp.arange(B, dtype=jnp.int32)[:, None], (B, T))
        return (jnp.arange(T)[:, None] >= self.starts[1:-1]).sum(1, dtype=jnp.int32)[None]

    def positions(self, shape: tuple[int, ...]) -> Array:
        """Each token's position in its sequence: int32 [B, T]."""
        sequence_BT = self.sequences(shape)
        offset_BT = jnp.arange(shape[1], dtype=jnp.int32) - (0 if self.starts is None else self.starts[sequence_BT])
        return self.cached_R[sequence_BT] + offset_BT
