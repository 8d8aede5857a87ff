"""A model is a configuration and its parameters; everything computed with it is a pure function of the two.

Parameters are a flat dict from name to array: what a safetensors file holds, what sharding rules and optimiser
masks match on. The Flax modules are built once per configuration, without arrays, and the parameters are merged
into them inside the trace: a call through `nnx.jit` costs 13 to 16 ms of host time, through `jax.jit` under 1 ms.

Flax is imported by the first trace: a process that finds all its programs stored saves 0.3 s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.kernels import ChunkLayout
from llm_jax.model.cache import KVCache
from llm_jax.model.initial import init_params
from llm_jax.model.routing import Routing

if TYPE_CHECKING:
    from flax import nnx

    from llm_jax.model.attention import AttentionInputs
    from llm_jax.model.decoder import Decoder

FACTOR = ".lora.a"  # ends the name of the first factor beside a linear map
Params = dict[str, Array]  # in an engine, linear maps may be a PackedMatrix: see packing.py


@dataclass(frozen=True)
class Model:
    """An architecture and its weights.

    >>> model = Model.init(ModelConfig(vocab_size=100, hidden_size=64), seed=0)
    >>> model.params["lm_head.weight"].shape
    (100, 64)
    """

    config: ModelConfig
    params: Params

    @classmethod
    def init(cls, config: ModelConfig, seed: int = 0) -> "Model":
        """Random float32 weights, the same for the same seed."""
        return cls(config, init_params(config, seed))


def merge(config: ModelConfig, params: Params) -> "Decoder":
    """The Flax module over these parameters. Call it inside jit. Using a parameter that `params` lacks fails.

    Linear maps with an adapter beside them have its factors among the parameters, see `lora.adapted`.
    """
    from flax import nnx

    graph, state = _skeleton(config, frozenset(name.removesuffix(FACTOR) for name in params if name.endswith(FACTOR)))
    filled = [(path, value.replace(params.get(_name(path)))) for path, value in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def head_params(config: ModelConfig, params: Params) -> Params:
    """The parameters that logits are made with from hidden states (`Decoder.head`)."""
    prefix = "embedding_layer.token_embeddings." if config.tie_embeddings else "lm_head."
    return {name: value for name, value in params.items() if name.startswith(prefix)}


def forward(
    config: ModelConfig,
    params: Params,
    tokens_BT: Array,
    *,
    positions_BT: Array | None = None,
    segments_BT: Array | None = None,
    mask: Array | None = None,
    dtype: jnp.dtype | str | None = None,
    dropout_key: Array | None = None,
    cache: KVCache | None = None,
    layout: ChunkLayout | None = None,
) -> Any:
    """Logits [B, T, V] in float32; with a cache, (logits, cache).

    Pure: jit it with `config` (and `dtype`) static.

    >>> model = Model.init(ModelConfig(vocab_size=100, hidden_size=64))
    >>> forward(model.config, model.params, jnp.array([[1, 2, 3]])).shape
    (1, 3, 100)

    Args:
        tokens_BT: int ids.
        positions_BT: int positions; 0 … T-1 unless given. Not with a cache, where they count on from what is cached.
        segments_BT: int; tokens attend within their own segment only (packed documents). Not with a cache.
        mask: bool, True where a query may attend, broadcastable to [B, 1, T, S]; combined with causality.
        dtype: what to compute in; the parameters' own dtype unless given.
        dropout_key: a PRNG key switches dropout on.
        cache: keys and values seen before, to which new ones are appended.
        layout: with a cache, which of its blocks each sequence has, and how much is in them (`dense_layout`). Where
            sequences have different numbers of tokens, attention must be native.
    """
    hidden, cache = forward_hidden(
        config,
        params,
        tokens_BT,
        positions_BT=positions_BT,
        segments_BT=segments_BT,
        mask=mask,
        dtype=dtype,
        dropout_key=dropout_key,
        cache=cache,
        layout=layout,
    )
    logits = merge(config, params).head(hidden)
    return logits if cache is None else (logits, cache)


def forward_hidden(
    config: ModelConfig,
    params: Params,
    tokens_BT: Array,
    *,
    positions_BT: Array | None = None,
    segments_BT: Array | None = None,
    mask: Array | None = None,
    dtype: jnp.dtype | str | None = None,
    dropout_key: Array | None = None,
    cache: KVCache | None = None,
    layout: ChunkLayout | None = None,
) -> tuple[Array, KVCache | None]:
    """Like `forward`, but stops before the output head: hidden states [B, T, D]."""
    if cache is not None:
        if layout is None or positions_BT is not None or segments_BT is not None:
            raise ValueError("With a cache, a layout says where tokens go, and there are no positions and no segments.")
        positions_BT = layout.positions(tokens_BT.shape)
    inputs = _inputs(tokens_BT, positions_BT, mask, segments_BT, layout)
    hidden, cache, _ = merge(config, params).hidden(tokens_BT, inputs, cache, _dtype(params, dtype), dropout_key)
    return hidden, cache


def forward_routed(
    config: ModelConfig,
    params: Params,
    tokens_BT: Array,
    counted_BT: Array,
    *,
    positions_BT: Array | None = None,
    segments_BT: Array | None = None,
    dtype: jnp.dtype | str | None = None,
    dropout_key: Array | None = None,
) -> tuple[Array, Routing]:
    """Like `forward_hidden` of a model with experts; also what its routers did, summed over its layers.

    Args:
        counted_BT: bool, the tokens whose routing counts: those that are no padding.
    """
    inputs, compute = _inputs(tokens_BT, positions_BT, None, segments_BT, None), _dtype(params, dtype)
    hidden, _, routings = merge(config, params).hidden(tokens_BT, inputs, None, compute, dropout_key, counted_BT)
    return hidden, jax.tree.map(lambda *layers: sum(layers[1:], layers[0]), *routings)


def observe_inputs(model: Model, tokens_BT: Array, observe: Callable[[str, Array], None]) -> None:
    """Calls `observe` with the name of each linear map's weight and what it is multiplied with, [B, T, I]; no jit.

    The head's input counts as the embedding table's, where the two are tied. Experts are left out.
    """
    from flax import nnx

    from llm_jax.model.layers import Linear

    config = model.config
    decoder = merge(config, {name: jnp.asarray(np.asarray(value)) for name, value in model.params.items()})
    for path, module in nnx.iter_modules(decoder):
        if isinstance(module, Linear):
            module.observe = partial(observe, f"{_name(path)}.weight")
    inputs = _inputs(tokens_BT, None, None, None, None)
    hidden, _, _ = decoder.hidden(tokens_BT, inputs, None, jnp.dtype(jnp.float32), None)
    observe("embedding_layer.token_embeddings.weight" if config.tie_embeddings else "lm_head.weight", hidden)


@lru_cache(maxsize=64)
def _skeleton(config: ModelConfig, adapted: frozenset[str]) -> "tuple[nnx.GraphDef[Decoder], nnx.State]":
    """The module graph and its parameters' shapes: what `merge` fills.

    Args:
        adapted: the linear maps with low-rank factors beside them.
    """
    from flax import nnx

    from llm_jax.model.decoder import Decoder
    from llm_jax.model.layers import LowRankFactors

    def build() -> Decoder:
        decoder = Decoder(config)
        for path, module in nnx.iter_modules(decoder) if adapted else ():
            if _name(path) in adapted:
                module.lora = LowRankFactors()
        return decoder

    return nnx.split(nnx.eval_shape(build))


def _inputs(
    tokens_BT: Array,
    positions_BT: Array | None,
    mask: Array | None,
    segments_BT: Array | None,
    layout: ChunkLayout | None,
) -> "AttentionInputs":
    from llm_jax.model.attention import AttentionInputs

    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32), tokens_BT.shape)
    return AttentionInputs(positions_BT, mask, segments_BT, layout)


def _dtype(params: Params, dtype: jnp.dtype | str | None) -> jnp.dtype:
    """What to compute in."""
    return jnp.dtype(dtype or params["embedding_layer.token_embeddings.weight"].dtype)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)
