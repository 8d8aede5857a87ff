"""A model's weights as inference wants them: linear maps packed for the kernels, the rest in the right dtype."""

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llm_jax.errors import ConfigError
from llm_jax.kernels import WEIGHT_DTYPES, Level, PackedMatrix, WeightDtype, pack, pack_gated
from llm_jax.model.model import Model
from llm_jax.model.sharding import shard_params

EMBEDDING = "embedding_layer.token_embeddings.weight"


class MutableModel(Model):
    """A model over memory that its owner changes in place: equal arrays need not have equal weights."""


class _Cast(NamedTuple):
    """What a model was cast to, and from which arrays."""

    sources: Sequence[Array]
    dtype: WeightDtype
    mesh: Mesh | None
    outcome: tuple[Model, jnp.dtype]


_casts: dict[int, _Cast] = {}  # keyed by id(model); a finaliser removes the entry


def cast_model(model: Model, dtype: WeightDtype, *, mesh: Mesh | None = None) -> tuple[Model, jnp.dtype]:
    """The model as inference wants it, and the dtype to compute in.

    The last outcome is stored as long as the model lives, so that a second call with the same weights costs nothing. A
    MutableModel is cast anew each time: to find out whether its weights changed would take as long as packing them.

    Vectors (norms, biases) are float32, their size is negligible. What else is not packed, the embedding table and
    experts, is bfloat16 unless `dtype` is float32. Packed products take and give float32 as fast as bfloat16 on a CPU,
    so that only the weights are rounded; with experts, which XLA multiplies, and on a GPU bfloat16 is what is fast.

    Args:
        dtype: of the weights.
        mesh: spread it over these devices. Then only int8 is packed: XLA shards plain matrices alone.

    Raises:
        ConfigError: `dtype` is none of WEIGHT_DTYPES.
    """
    if dtype not in WEIGHT_DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(WEIGHT_DTYPES)}.")
    if isinstance(model, MutableModel):
        return _cast_anew(model, dtype, mesh)
    sources, key = tuple(model.params.values()), id(model)
    known = _casts.get(key)
    if known is None:
        weakref.finalize(model, _casts.pop, key, None)
    elif (known.dtype, known.mesh) == (dtype, mesh) and _are_same(known.sources, sources):
        return known.outcome
    outcome = _cast_anew(model, dtype, mesh)
    _casts[key] = _Cast(sources, dtype, mesh, outcome)
    return outcome


def _are_same(some: Sequence[Array], others: Sequence[Array]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _cast_anew(model: Model, dtype: WeightDtype, mesh: Mesh | None) -> tuple[Model, jnp.dtype]:
    on_cpu = jax.default_backend() == "cpu"
    packed = dtype == "int8" or (on_cpu and mesh is None)
    plain = jnp.dtype("float32" if dtype == "float32" else "bfloat16")
    if mesh is not None:
        model = replace(model, params=shard_params(model.config, model.params, mesh))

    def cast(value: Any) -> Any:
        if isinstance(value, PackedMatrix):
            return value
        dtype = jnp.float32 if value.ndim == 1 else plain
        if isinstance(value, np.ndarray):  # copied, for it may be mapped from a file
            return jax.device_put(np.array(value, dtype))
        return jnp.asarray(value, dtype)

    with ThreadPoolExecutor(1) as pool:  # the system takes as long to provide memory for the table as packing takes
        table = pool.submit(cast, model.params[EMBEDDING])
        if packed:
            model = pack_model(model, dtype, level=None if mesh is None else Level.XLA)
    params = {name: cast(value) for name, value in model.params.items() if name != EMBEDDING}
    params[EMBEDDING] = table.result()
    if mesh is not None:
        params = shard_params(model.config, params, mesh)  # packing may have moved what it packed
    compute = jnp.dtype("float32") if packed and on_cpu and not model.config.use_moe else plain
    return replace(model, params=params), compute


def kernel_level(model: Model) -> Level:
    """Which kernels the model's weights are packed for; Level.XLA where they are not packed."""
    weight = model.params["transformer_blocks.0.self_attn.qkv_proj.weight"]
    return weight.level if isinstance(weight, PackedMatrix) else Level.XLA


def pack_model(model: Model, dtype: WeightDtype, *, level: Level | None = None) -> Model:
    """The same model with every linear map packed; experts and routers stay as they are.

    A gate is packed into fc1, and `gate_proj.weight` is left with no rows. A tied head becomes one of its own,
    since the embedding looks up rows of the plain table: the configuration says so.

    Args:
        dtype: of the weights.
        level: which kernels read them; the best of this machine unless given.
    """
    params: dict[str, Any] = dict(model.params)
    config = model.config
    if config.tie_embeddings:
        config = replace(config, tie_embeddings=False, lm_head_bias=False)
        params["lm_head.weight"] = params[EMBEDDING]
    names = ["lm_head.weight"]
    gates: dict[str, str] = {}
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}."
        names += [block + "self_attn.qkv_proj.weight", block + "self_attn.out_proj.weight"]
        mlp = block + ("mlp.shared_expert." if config.has_experts(i) else "mlp.")
        if config.has_experts(i) and config.shared_expert_size is None:
            continue
        names += [mlp + "fc1.weight", mlp + "fc2.weight"]
        if config.use_glu:
            gates[mlp + "fc1.weight"] = mlp + "gate_proj.weight"

    for name in names:  # one by one: each uses all cores
        if name in gates:
            params[name] = pack_gated(params[name], params[gates[name]], dtype, level=level)
        else:
            params[name] = pack(params[name], dtype, level=level)
    params |= dict.fromkeys(gates.values(), jax.device_put(np.zeros((0, config.hidden_size), np.float32)))
    return replace(model, config=config, params=params)
