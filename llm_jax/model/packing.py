"""A model's weights as inference wants them: linear maps packed for the kernels, the rest in the right dtype."""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.errors import ConfigError
from llm_jax.kernels import KINDS, Kind, Level, PackedMatrix, pack, pack_gated
from llm_jax.model.model import Model

TABLE = "embedding_layer.token_embeddings.weight"


class LiveModel(Model):
    """A model over memory that someone else changes in place: the same arrays need not mean the same weights."""


class _Kept(NamedTuple):
    """What a model was cast to, and from which arrays."""

    sources: Sequence[Array]
    kind: Kind
    packed: bool
    outcome: tuple[Model, jnp.dtype]


_kept: dict[int, _Kept] = {}  # by the id of the model, which takes its entry along when it goes


def cast_model(model: Model, kind: Kind, *, packed: bool | None = None) -> tuple[Model, jnp.dtype]:
    """The model as inference wants it, and the dtype to compute in.

    The last outcome is kept as long as the model, so that a second call with the same weights costs nothing. A
    LiveModel is cast anew each time: to find out whether its weights changed would take as long as packing them.

    Vectors (norms, biases) are float32, they weigh nothing. What else stays plain, the embedding table and experts,
    is bfloat16 unless `kind` is float32. Packed products take and give float32 as fast as bfloat16 on a CPU, so that
    only the weights are rounded; with experts, which XLA multiplies, and on a GPU bfloat16 is what is fast.

    Args:
        kind: what the weights are kept in.
        packed: whether linear maps are packed: on a CPU unless given. int8 always is.

    Raises:
        ConfigError: `kind` is none of KINDS.
    """
    if kind not in KINDS:
        raise ConfigError(f"dtype is {kind!r}; it must be one of {', '.join(KINDS)}.")
    packed = kind == "int8" or (jax.default_backend() == "cpu" if packed is None else packed)
    if isinstance(model, LiveModel):
        return _cast_anew(model, kind, packed)
    sources, key = tuple(model.params.values()), id(model)
    known = _kept.get(key)
    if known is None:
        weakref.finalize(model, _kept.pop, key, None)
    elif (known.kind, known.packed) == (kind, packed) and _are_same(known.sources, sources):
        return known.outcome
    outcome = _cast_anew(model, kind, packed)
    _kept[key] = _Kept(sources, kind, packed, outcome)
    return outcome


def _are_same(some: Sequence[Array], others: Sequence[Array]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _cast_anew(model: Model, kind: Kind, packed: bool) -> tuple[Model, jnp.dtype]:
    if packed:
        model = pack_model(model, kind)
    plain = jnp.dtype("float32" if kind == "float32" else "bfloat16")

    def cast(value: Any) -> Any:
        if isinstance(value, PackedMatrix):
            return value
        return jnp.asarray(value, jnp.float32 if value.ndim == 1 else plain)

    params = {name: cast(value) for name, value in model.params.items()}
    on_cpu = jax.default_backend() == "cpu"
    compute = jnp.dtype("float32") if packed and on_cpu and not model.config.use_moe else plain
    return replace(model, params=params), compute


def pack_model(model: Model, kind: Kind, *, level: Level | None = None) -> Model:
    """The same model with every linear map packed; experts and routers stay as they are.

    A gate is packed into fc1, and `gate_proj.weight` is left with no rows. A tied head becomes one of its own,
    since the embedding looks up rows of the plain table: the configuration says so.

    Args:
        kind: what the weights are kept in.
        level: which kernels read them; the best of this machine unless given.
    """
    params: dict[str, Any] = dict(model.params)
    config = model.config
    if config.tie_embeddings:
        config = replace(config, tie_embeddings=False, lm_head_bias=False)
        params["lm_head.weight"] = params[TABLE]
    names = ["lm_head.weight"]
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}."
        names += [block + "self_attn.qkv_proj.weight", block + "self_attn.out_proj.weight"]
        if config.use_moe:
            continue
        names.append(block + "mlp.fc2.weight")
        first, gate = block + "mlp.fc1.weight", block + "mlp.gate_proj.weight"
        if config.use_glu:
            params[first] = pack_gated(params[first], params[gate], kind, level=level)
            params[gate] = jnp.zeros((0, config.hidden_size))
        else:
            names.append(first)
    for name in names:
        params[name] = pack(params[name], kind, level=level)
    return replace(model, config=config, params=params)
