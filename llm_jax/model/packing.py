"""A model's weights as inference wants them: linear maps packed for the kernels, the rest in the right dtype."""

import re
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llm_jax.config import BaseDtype, ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.kernels import (
    PANEL,
    BlockMatrix,
    BlockRows,
    Level,
    PackedMatrix,
    QuantisedMatrix,
    WeightDtype,
    best_level,
    join,
    pack,
    pack_blocks,
    pack_frozen,
    pack_gated,
    quantise,
)
from llm_jax.model.model import Model
from llm_jax.model.sharding import shard_params

ModelDtype = Literal["auto", "float32", "bfloat16", "int8", "int4"]
MODEL_DTYPES: tuple[ModelDtype, ...] = get_args(ModelDtype)
EMBEDDING = "embedding_layer.token_embeddings.weight"
HEAD = "lm_head.weight"
LINEAR = re.compile(
    r"(self_attn\.(qkv|out)_proj|mlp\.(shared_expert\.)?(fc1|fc2|gate_proj))\.weight$|^lm_head\.weight$"
)


class MutableModel(Model):
    """A model over memory that its owner changes in place: equal arrays need not have equal weights."""


class _Cast(NamedTuple):
    """What a model was cast to, and from which arrays."""

    sources: Sequence[Array]
    dtype: ModelDtype
    mesh: Mesh | None
    pair_gates: bool
    outcome: tuple[Model, jnp.dtype]


_casts: dict[int, _Cast] = {}  # keyed by id(model); a finaliser removes the entry


def cast_model(
    model: Model, dtype: ModelDtype, *, mesh: Mesh | None = None, pair_gates: bool = True
) -> tuple[Model, jnp.dtype]:
    """The model as inference wants it, and the dtype to compute in.

    The last outcome is stored as long as the model lives, so that a second call with the same weights costs nothing. A
    MutableModel is cast anew each time: to find out whether its weights changed would take as long as packing them.

    Vectors (norms, biases) are float32, their size is negligible. What else is not packed, the embedding table and
    experts, is bfloat16 unless `dtype` is float32; a table that a file has in blocks stays so under auto. Packed
    products take and give float32 as fast as bfloat16 on a CPU, so that only the weights are rounded; with experts,
    which XLA multiplies, and on a GPU bfloat16 is what is fast.

    Args:
        dtype: of the weights. int4 is Q4_1 of GGUF: scale and minimum in float16 for each 32. auto is, on a CPU, what
            each matrix has: blocks as a GGUF file has them, bfloat16, or float32; on a GPU bfloat16.
        mesh: spread it over these devices. Then only int8 is packed: XLA shards plain matrices alone.
        pair_gates: see `pack_model`.

    Raises:
        ConfigError: `dtype` is none of MODEL_DTYPES, or cannot be had here.
    """
    if dtype not in MODEL_DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(MODEL_DTYPES)}.")
    if dtype == "int4" and mesh is not None:
        raise ConfigError("Weights in int4 cannot be spread over several devices; choose int8 or bfloat16.")
    if isinstance(model, MutableModel):
        return _cast_anew(model, dtype, mesh, pair_gates)
    sources, key = tuple(model.params.values()), id(model)
    known = _casts.get(key)
    if known is None:
        weakref.finalize(model, _casts.pop, key, None)
    elif known[1:4] == (dtype, mesh, pair_gates) and _are_same(known.sources, sources):
        return known.outcome
    outcome = _cast_anew(model, dtype, mesh, pair_gates)
    _casts[key] = _Cast(sources, dtype, mesh, pair_gates, outcome)
    return outcome


def _are_same(some: Sequence[Array], others: Sequence[Array]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _cast_anew(model: Model, dtype: ModelDtype, mesh: Mesh | None, pair_gates: bool) -> tuple[Model, jnp.dtype]:
    on_cpu = jax.default_backend() == "cpu"
    if dtype == "auto":
        dtype = _own_dtype(model) if on_cpu else "bfloat16"
        if mesh is None and on_cpu and best_level() != Level.XLA and _has_blocks(model):
            dtype = "auto"
    packed = dtype in ("int8", "int4", "auto") or (on_cpu and mesh is None)
    plain = jnp.dtype("float32" if dtype == "float32" or (dtype == "auto" and not model.config.use_moe) else "bfloat16")
    if mesh is not None:
        model = replace(model, params=shard_params(model.config, model.params, mesh))

    def cast(value: Any) -> Any:
        if isinstance(value, PackedMatrix | BlockMatrix):
            return value
        if dtype == "auto" and isinstance(value, QuantisedMatrix) and (parts := _parts(value)) is not None:
            return pack_blocks(parts)
        target = jnp.float32 if value.ndim == 1 else plain
        if dtype == "auto" and value.dtype == jnp.bfloat16 and value.ndim > 1:
            target = jnp.bfloat16
        if isinstance(value, np.ndarray | QuantisedMatrix):  # copied, for it may be mapped from a file
            return jax.device_put(np.array(value, target))
        return jnp.asarray(value, target)

    with ThreadPoolExecutor(1) as pool:  # the system takes as long to provide memory for the table as packing takes
        table = pool.submit(cast, model.params[EMBEDDING])
        if packed:
            model = pack_model(model, dtype, level=None if mesh is None else Level.XLA, pair_gates=pair_gates)
    params = {name: cast(value) for name, value in model.params.items() if name != EMBEDDING}
    params[EMBEDDING] = table.result()
    params |= join({name: value for name, value in params.items() if isinstance(value, BlockMatrix)})
    if mesh is not None:
        params = shard_params(model.config, params, mesh)  # packing may have moved what it packed
    compute = jnp.dtype("float32") if packed and on_cpu and not model.config.use_moe else plain
    return replace(model, params=params), compute


def _own_dtype(model: Model) -> WeightDtype:
    return "bfloat16" if model.params[EMBEDDING].dtype == jnp.bfloat16 else "float32"


def _has_blocks(model: Model) -> bool:
    return any(isinstance(value, QuantisedMatrix) for value in model.params.values())


def kernel_level(model: Model) -> Level:
    """Which kernels the model's weights are packed for; Level.XLA where they are not packed."""
    weight = model.params["transformer_blocks.0.self_attn.qkv_proj.weight"]
    return weight.level if isinstance(weight, PackedMatrix | BlockMatrix) else Level.XLA


def weight_types(model: Model) -> str:
    """What a cast model's matrices are stored in, those with the most values first."""
    counts: dict[str, int] = {}
    for value in model.params.values():
        if isinstance(value, BlockMatrix):
            for format, outputs in zip(value.formats, value.outputs, strict=True):
                counts[format] = counts.get(format, 0) + outputs * value.shape[1]
        elif isinstance(value, PackedMatrix):
            counts[value.dtype] = counts.get(value.dtype, 0) + value.shape[0] * value.shape[1]
        elif value.ndim > 1:
            counts[str(value.dtype)] = counts.get(str(value.dtype), 0) + value.size
    return ", ".join(sorted(filter(counts.get, counts), key=lambda name: -counts[name]))


def pack_model(model: Model, dtype: ModelDtype, *, level: Level | None = None, pair_gates: bool = True) -> Model:
    """The same model with every linear map packed; experts and routers stay as they are.

    A gate is packed into fc1, and `gate_proj.weight` is left with no rows. A tied head becomes one of its own,
    since the embedding looks up rows of the plain table: the configuration says so. With auto, a table in blocks is
    both.

    Args:
        dtype: of the weights; auto packs blocks as they are.
        level: which kernels read them; the best of this machine unless given.
        pair_gates: False leaves a gate a matrix of its own, as a model needs it that has adapters beside it.
    """
    params: dict[str, Any] = dict(model.params)
    config = model.config
    names = [HEAD]
    if config.tie_embeddings and dtype == "auto" and isinstance(params[EMBEDDING], QuantisedMatrix):
        names = []
    elif config.tie_embeddings:
        config = replace(config, tie_embeddings=False, lm_head_bias=False)
        params[HEAD] = params[EMBEDDING]
    gates: dict[str, str] = {}
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}."
        names += [block + "self_attn.qkv_proj.weight", block + "self_attn.out_proj.weight"]
        mlp = block + ("mlp.shared_expert." if config.has_experts(i) else "mlp.")
        if config.has_experts(i) and config.shared_expert_size is None:
            continue
        names += [mlp + "fc1.weight", mlp + "fc2.weight"]
        if config.use_glu and not pair_gates:
            names.append(mlp + "gate_proj.weight")
        elif config.use_glu:
            gates[mlp + "fc1.weight"] = mlp + "gate_proj.weight"

    for name in names:  # one by one: each uses all cores
        pair = [params[name], params[gates[name]]] if name in gates else [params[name]]
        params[name] = _pack(pair, dtype, level)
    params |= dict.fromkeys(gates.values(), jax.device_put(np.zeros((0, config.hidden_size), np.float32)))
    return replace(model, config=config, params=params)


def freeze(config: ModelConfig, name: str, value: Array, dtype: BaseDtype) -> Any:
    """A parameter that no step changes, in few bytes, for training beside it.

    Linear maps of bfloat16, and a table that is the head too, are packed for native products, with gradients; linear
    maps of int8 and int4 are blocks of 32 in Q8_0 and Q4_1, which become float32 where they are multiplied, so that
    products and gradients are exact.

    Raises:
        ConfigError: the native library, which quantises, is not there.
    """
    if dtype == "float32" or value.ndim == 1:
        return value
    native = jax.default_backend() == "cpu" and best_level() != Level.XLA
    is_linear, is_head = LINEAR.search(name) is not None, name == EMBEDDING and config.tie_embeddings
    if dtype == "bfloat16" and native and (is_linear or is_head):
        return pack_frozen(value, "bfloat16")
    if dtype == "bfloat16" or not is_linear:
        return value.astype(jnp.bfloat16)
    rows = quantise(value, "Q8_0" if dtype == "int8" else "Q4_1")
    return pack_blocks([rows], inputs=value.shape[1], level=Level.XLA)


def _pack(matrices: list[Any], dtype: ModelDtype, level: Level | None) -> PackedMatrix | BlockMatrix:
    """A matrix, or a gated pair."""
    gated = len(matrices) > 1
    if dtype == "int4":
        inputs = matrices[0].shape[1]
        return pack_blocks([quantise(x, "Q4_1") for x in matrices], inputs=inputs, gated=gated, level=level)
    if dtype == "auto":
        parts = [_parts(x) if isinstance(x, QuantisedMatrix) else None for x in matrices]
        known = [part for part in parts if part is not None and (len(part) == 1 or not gated)]
        if len(known) == len(matrices):
            return pack_blocks([rows for part in known for rows in part], gated=gated, level=level)
        dtype = "bfloat16" if all(x.dtype == jnp.bfloat16 for x in matrices) else "float32"
    plain: list[Any] = [np.asarray(x) if isinstance(x, QuantisedMatrix) else x for x in matrices]
    if gated:
        return pack_gated(plain[0], plain[1], dtype, level=level)
    return pack(plain[0], dtype, level=level)


def _parts(matrix: QuantisedMatrix) -> Sequence[BlockRows] | None:
    """The parts of a matrix as they can be packed; None where they do not fill panels."""
    parts = matrix.parts()
    return None if any(len(part.rows) % PANEL for part in parts[:-1]) else parts
