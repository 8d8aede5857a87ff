"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors.

They name the linear maps of their base as transformers does, which is what the name table of its family says.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.atomic import atomic_directory
from llm_jax.checkpoint.directory import read_json
from llm_jax.checkpoint.families import FAMILIES, family_for, family_of_config, text_entries, text_tensors
from llm_jax.checkpoint.family import Family
from llm_jax.checkpoint.formats import open_safetensors, write_safetensors
from llm_jax.checkpoint.names import stored_matrices
from llm_jax.checkpoint.recognise import ADAPTER, CONFIG
from llm_jax.checkpoint.stored import StoredModel
from llm_jax.checkpoint.tensors import LazyTensor
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.errors import CheckpointError, ConfigError, nearest
from llm_jax.model import Adapter, LoraModule, Rows, merged_weight, param_shapes
from llm_jax.tokenizers import Tokenizer

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in it
PARAMETER = re.compile(r"(?P<module>.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
LINEAR = re.compile(r".*(self_attn\.(qkv|out)_proj|mlp\.(shared_expert\.)?(fc1|fc2|gate_proj))\.weight|lm_head\.weight")
FIELDS = {
    "rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern", "rslora": "use_rslora", "dora": "use_dora",
}  # fmt: skip
# Entries of adapter_config.json that change what is computed -> the values that are supported.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the base
    **dict.fromkeys(
        ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "use_qalora",
         "alora_invocation_tokens", "lora_bias", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
        (False, {}, []),
    ),
}  # fmt: skip

_Modules = dict[str, tuple[Rows, ...]]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter and its parameters.

    Attributes:
        params: as `Adapter.shapes` names them.
        base: the model that it was trained on, by path or name on the Hub, where its file says so.
    """

    adapter: Adapter
    params: dict[str, np.ndarray]
    base: str | None
    path: Path


def new_adapter(lora: LoraConfig, config: ModelConfig, base: Path | None = None) -> Adapter:
    """The adapter that is asked for beside a model.

    Args:
        base: the model's directory or file, whose family decides how linear maps are called.

    Raises:
        ConfigError: a target is no linear map, or one that cannot have an adapter.
    """
    family = _family_at(base, config)
    known = _modules(family, config)
    others = {name.removesuffix(".weight") for name, _ in stored_matrices(family.table(config), config)} - known.keys()
    allowed = f"The linear maps are {', '.join(sorted({name.split('.')[-1] for name in known}))}."
    targets = [lora.targets] if isinstance(lora.targets, str) else lora.targets
    for target in targets:
        one = replace(lora, targets=target if isinstance(lora.targets, str) else (target,))
        wrong = [name for name in others if lora.targets != "all-linear" and one.targets_module(name)]
        if wrong:
            raise ConfigError(f"lora.targets has {target}: {min(wrong)} cannot have an adapter. {allowed}", "targets")
        if not any(map(one.targets_module, known)):
            near = nearest(target, {name.split(".")[-1] for name in known}, cutoff=0.6)
            hint = f" Did you mean {near}?" if near else ""
            raise ConfigError(f"lora.targets has {target}, and no linear map is called so.{hint} {allowed}", "targets")
    chosen = {name: rows for name, rows in known.items() if lora.targets_module(name)}
    return _adapter(chosen, lora, config)


def read_adapter(directory: str | Path, config: ModelConfig) -> LoadedAdapter:
    """The adapter in a directory that PEFT or this project wrote, for a model of this architecture.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter is not of LoRA's kind or has a part that is not
            supported, or it does not fit the model.
    """
    directory = Path(directory)
    entries = read_adapter_config(directory)
    try:
        lora = LoraConfig(**{name: entries[key] for name, key in FIELDS.items() if entries.get(key) is not None})
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{directory / ADAPTER} does not describe an adapter: {error}") from None
    tensors = open_safetensors(directory / WEIGHTS)
    stored, _ = text_tensors({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
    strange = [name for name in stored if not PARAMETER.fullmatch(name)]
    if strange:
        raise CheckpointError(f"{directory / WEIGHTS} has {strange[0]}, which is no part of a low-rank adapter.")
    names = dict.fromkeys(PARAMETER.sub(r"\g<module>", name) for name in stored)
    family = _family_of(names, config, directory)
    known = _modules(family, config)
    adapter = _adapter({name: known[name] for name in names}, lora, config)
    wrong = [
        f"{name} is {list(stored[name].shape) if name in stored else 'missing'} where {list(shape)} is expected"
        for name, shape in adapter.shapes().items()
        if name not in stored or stored[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"The adapter in {directory} does not fit the model: {'; '.join(wrong[:5])}.")
    params = _ordered(family, config, adapter, stored, np.argsort)
    return LoadedAdapter(adapter, params, entries.get("base_model_name_or_path") or None, directory)


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The entries of adapter_config.json. Raises CheckpointError about one that is not supported."""
    entries = read_json(directory / ADAPTER)
    if entries.get("peft_type") != "LORA":
        kind = entries.get("peft_type")
        raise CheckpointError(f"{directory} has an adapter of the type {kind!r}; LORA is supported.")
    for name, allowed in SUPPORTED.items():
        value = entries.get(name)
        if value is not None and value not in allowed:
            raise CheckpointError(f"{directory / ADAPTER} says {name}: {json.dumps(value)}, which is not supported.")
    return entries


def write_adapter(
    directory: str | Path,
    adapter: Adapter,
    params: Mapping[str, Any],
    lora: LoraConfig,
    config: ModelConfig,
    *,
    base: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a directory that PEFT opens, atomically; an older adapter at that path is replaced.

    Args:
        lora: what the adapter was made of.
        base: the model that it belongs to, by path or name on the Hub.
        tokenizer: written beside it.

    Raises:
        CheckpointError: the path exists and is not an adapter.
    """
    target = Path(directory)
    if target.exists() and not ((target / ADAPTER).is_file() or not any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not an adapter; choose an empty or a new directory.")
    names = [module.name for module in adapter.modules]
    family = _family_of(names, config, target)
    arrays = {name: np.asarray(params[name]) for name in adapter.shapes()}
    tensors = _ordered(family, config, adapter, arrays, lambda order: order)
    entries = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "bias": "none", "fan_in_fan_out": _is_transposed(family, config), "init_lora_weights": True,
        "target_modules": names if config.use_moe else _ends(names, _modules(family, config)), "modules_to_save": None,
        **{key: getattr(lora, name) for name, key in FIELDS.items()},
        **{key: _matching(getattr(lora, key), names) for key in ("rank_pattern", "alpha_pattern")},
    }  # fmt: skip
    with atomic_directory(target) as new:
        (new / ADAPTER).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        write_safetensors(new, {PREFIX + name: value for name, value in tensors.items()}, file=WEIGHTS)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)


def base_of(directory: Path) -> str | None:
    """The model that an adapter belongs to, by path or name on the Hub; a relative path as seen from here."""
    base = read_adapter_config(directory).get("base_model_name_or_path") or None
    beside = directory / str(base)
    return str(beside) if base is not None and not Path(base).exists() and beside.exists() else base


def merge_adapter(stored: StoredModel, loaded: LoadedAdapter) -> StoredModel:
    """The model with the changes of an adapter in its weights, which are computed when they are read."""
    params = dict(stored.params)
    for linear in {rows.linear for module in loaded.adapter.modules for rows in module.outputs}:
        tensor = params[f"{linear}.weight"]
        read = partial(_merged, linear, tensor, loaded)
        params[f"{linear}.weight"] = LazyTensor(tensor.shape, tensor.dtype, read)
    return replace(stored, params=params)


def _merged(linear: str, tensor: Any, loaded: LoadedAdapter) -> np.ndarray:
    return merged_weight(linear, np.asarray(tensor), loaded.adapter, loaded.params)


def _adapter(modules: Mapping[str, tuple[Rows, ...]], lora: LoraConfig, config: ModelConfig) -> Adapter:
    shapes = param_shapes(config)

    def module(name: str, rows: tuple[Rows, ...]) -> LoraModule:
        inputs = shapes[f"{rows[0].linear}.weight"].shape[1]
        return LoraModule(name, rows, inputs, lora.rank_of(name), lora.scale(name), lora.dora)

    return Adapter(tuple(module(name, rows) for name, rows in modules.items()), lora.dropout)


def _modules(family: Family, config: ModelConfig) -> _Modules:
    """The linear maps that can have an adapter, by their names in the family's files."""
    return {
        name.removesuffix(".weight"): tuple(Rows(param.removesuffix(".weight"), *rows) for param, *rows in parts)
        for name, parts in stored_matrices(family.table(config), config)
        if all(LINEAR.fullmatch(param) for param, *_ in parts)
    }


def _family_at(base: Path | None, config: ModelConfig) -> Family:
    if base is not None and (base / CONFIG).is_file():
        return family_of_config(text_entries(read_json(base / CONFIG)))
    return family_for(config)


def _family_of(names: Iterable[str], config: ModelConfig, directory: Path) -> Family:
    """The first family that can express the architecture and calls its linear maps so."""
    families = [family for family in FAMILIES if family.expresses(config)]
    for family in families:
        if _modules(family, config).keys() >= set(names):
            return family
    missing = min(set(names) - _modules(families[0], config).keys())
    raise CheckpointError(
        f"The adapter in {directory} has {missing}, which is no linear map of this model that can have one. "
        "Is it for another model?"
    )


def _ordered(
    family: Family,
    config: ModelConfig,
    adapter: Adapter,
    arrays: Mapping[str, np.ndarray],
    index: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The adapter's arrays, rows of outputs in the order that `index` makes of the family's, see `RowOrder`."""
    ordered = dict(arrays)
    for module in adapter.modules:
        for rule in family.orders:
            if (match := rule.names.fullmatch(f"{module.name}.weight")) is not None:
                rows = index(rule.order(config, match))
                ordered |= {name: ordered[name][rows] for name in module.shapes() if name != module.a}
    return ordered


def _matching(pattern: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Without expressions that match no name, which peft warns of."""
    return {key: value for key, value in pattern.items() if any(re.match(rf"(.*\.)?({key})$", name) for name in names)}


def _is_transposed(family: Family, config: ModelConfig) -> bool:
    """Whether the family stores its linear maps as [in, out]."""
    return any(rule.transpose for rule in family.table(config))


def _ends(names: Sequence[str], known: _Modules) -> list[str]:
    """The last parts of the names, where these stand for no others; else the names."""
    ends = sorted({name.split(".")[-1] for name in names})
    meant = {name for name in known if name.split(".")[-1] in ends}
    return ends if meant == set(names) else sorted(names)
