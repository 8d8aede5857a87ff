"""A family of models: a mapping between ModelConfig and its config.json, and a table of tensor names.

Both work in both directions. Whether a family can express an architecture is tested: reading the config.json that it
writes must give the same architecture.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from llm_jax.checkpoint.names import Rule, read_names, write_names
from llm_jax.checkpoint.tensors import Tensor, permuted
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError, LLMWarning

Json = dict[str, Any]

REQUIRED = object()
HEADS = ("lm_head.", "embed_out.")  # names of the head, which no prefix has


@dataclass(frozen=True)
class Key:
    """One entry of config.json: its name, its default, and the conversion to a field of ModelConfig and back.

    `aliases` are other names under which some writers store it.
    """

    name: str
    default: Any = REQUIRED
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value
    aliases: tuple[str, ...] = ()

    def find(self, entries: Json) -> Any:
        return next((entries[name] for name in (self.name, *self.aliases) if name in entries), self.default)


@dataclass(frozen=True)
class Section:
    """A conversion of several entries of config.json to several fields of ModelConfig."""

    read: Callable[[Json], Json]
    write: Callable[[ModelConfig], Json]


@dataclass(frozen=True)
class RowOrder:
    """Tensors whose rows a family stores in another order than the table's.

    Attributes:
        names: matches their names, whole.
        order: for the configuration and the match, where the table's matrix has each stored row.
    """

    names: re.Pattern[str]
    order: Callable[[ModelConfig, re.Match[str]], np.ndarray]


@dataclass(frozen=True)
class Family:
    """A family of architectures, as transformers stores it.

    Attributes:
        model_type, architecture: the values of `model_type` and `architectures` in config.json.
        keys: field of ModelConfig -> entry of config.json.
        always: fields of ModelConfig with one value throughout the family.
        sections: conversions of several entries at once.
        unsupported: entry -> its only supported value.
        table: the name table, for a given architecture.
        prefix: of the names of the body; files of the body without its head lack it.
        ignored: names in a file that are not parameters (buffers, tied heads).
        restore: tensors under the names of the table, where another writer has stored them otherwise.
        orders: of the rows of stored tensors, where they are not the table's.
    """

    model_type: str
    architecture: str
    table: Callable[[ModelConfig], tuple[Rule, ...]]
    keys: Mapping[str, Key] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    unsupported: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    ignored: re.Pattern[str] = re.compile(r"(?!)")
    restore: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    orders: tuple[RowOrder, ...] = ()

    def read_config(self, entries: Json) -> ModelConfig:
        """Raises CheckpointError about an entry that is missing, unsupported or out of range."""
        for name, allowed in self.unsupported.items():
            if entries.get(name) not in (None, allowed):
                raise CheckpointError(
                    f"config.json says {name}: {entries[name]!r}, which this decoder does not compute "
                    f"(only {allowed!r})."
                )
        fields = dict(self.always)
        for name, key in self.keys.items():
            value = key.find(entries)
            if value is REQUIRED:
                raise CheckpointError(f"config.json lacks {key.name}, which every {self.model_type} model has.")
            fields[name] = key.read(value)
        try:
            for section in self.sections:
                fields |= section.read(entries)
            return ModelConfig(**fields)
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error} in one of its parts.") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"config.json does not describe a {self.model_type} model: {error}") from error

    def write_config(self, config: ModelConfig) -> Json:
        explicit = resolved(config)
        entries: Json = {"model_type": self.model_type, "architectures": [self.architecture]}
        entries |= {key.name: key.write(getattr(explicit, name)) for name, key in self.keys.items()}
        for section in self.sections:
            entries |= section.write(config)
        return entries

    def expresses(self, config: ModelConfig) -> bool:
        """Whether a model of this family can compute exactly what `config` says."""
        try:
            return canonical(self.read_config(self.write_config(config))) == canonical(config)
        except (CheckpointError, KeyError):
            return False

    def read_weights(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters, as lazy tensors.

        Raises one CheckpointError about all tensors that are missing, unexpected or misshaped.
        """
        named = self._named(tensors)
        if config.tie_embeddings:
            table, head = self._tied_names(config)
            stored_head = named.pop(head, None)  # some writers store the tied table twice, or under this name alone
            if stored_head is not None:
                named.setdefault(table, stored_head)
        return read_names(self.table(config), config, self._ordered(config, named, np.argsort))

    def resolve_tie(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> ModelConfig:
        """`config`, not tied where the file has a head that differs from the embedding; a warning says so."""
        if not config.tie_embeddings:
            return config
        named = self._named(tensors)
        table, head = (named.get(name) for name in self._tied_names(config))
        if table is None or head is None or np.array_equal(np.asarray(table), np.asarray(head)):
            return config
        warnings.warn(
            "config.json says tie_word_embeddings: true, and the weights have a head that differs from the embedding. "
            "The head is used; set tie_word_embeddings to false.",
            LLMWarning,
            stacklevel=2,
        )
        return replace(config, tie_embeddings=False)

    def _named(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names of the table, without those that are no parameters."""
        restored = self.restore(dict(tensors))
        body = any(name.startswith(self.prefix) for name in restored)
        named = {name if body or name.startswith(HEADS) else self.prefix + name: restored[name] for name in restored}
        return {name: tensor for name, tensor in named.items() if not self.ignored.search(name)}

    def _tied_names(self, config: ModelConfig) -> tuple[str, str]:
        """The names in files of the embedding and of the head."""
        stored = {rule.params[0]: rule.stored[0] for rule in self.table(replace(config, tie_embeddings=False))}
        return stored["embedding_layer.token_embeddings.weight"], stored["lm_head.weight"]

    def write_weights(self, config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The family's tensors by name."""
        return self._ordered(config, write_names(self.table(config), config, params), lambda order: order)

    def _ordered(
        self, config: ModelConfig, tensors: dict[str, Tensor], index: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, Tensor]:
        """The tensors, those that `orders` names with their rows taken by `index` of the order."""
        ordered = dict(tensors)
        for name, tensor in tensors.items():
            for rule in self.orders:
                if (match := rule.names.fullmatch(name)) is not None:
                    rows = index(rule.order(config, match))
                    if len(rows) == tensor.shape[0]:  # else the table refuses its shape
                        ordered[name] = permuted(tensor, partial(np.take, indices=rows, axis=0))
        return ordered


def resolved(config: ModelConfig) -> ModelConfig:
    """The same architecture with every derived field set explicitly."""
    return replace(
        config,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_size,
        intermediate_size=config.ffn_size,
        dense_size=config.dense_ffn_size,
        embedding_scale=config.embedding_multiplier,
        attention_scale=config.attention_multiplier,
        out_bias=config.has_out_bias,
        embedding_dropout=config.dropout_rate(config.embedding_dropout),
        attention_dropout=config.dropout_rate(config.attention_dropout),
        mlp_dropout=config.dropout_rate(config.mlp_dropout),
    )


def canonical(config: ModelConfig) -> ModelConfig:
    """`config` with unused fields at defaults: two of them are equal exactly when they compute the same function."""
    layers = range(config.num_layers)
    rotating = tuple(map(config.rotates, layers))
    rotary = any(rotating)
    scaling = config.rope_scaling
    # Unset means rope_theta with its scaling; without a scaling, this equals an explicit rope_theta.
    window_theta = config.window_rope_theta or (config.rope_theta if scaling is None else None)
    windows = tuple(config.window(i) is not None for i in layers)
    expert_layers = tuple(map(config.has_experts, layers))
    moe = any(expert_layers)
    if scaling is not None and scaling.kind == "longrope" and scaling.long_factors == scaling.factors:
        scaling = replace(scaling, long_factors=())
    return replace(
        resolved(config),
        lm_head_bias=config.lm_head_bias and not config.tie_embeddings,
        rope_theta=config.rope_theta if rotary else 10000.0,
        rope_scaling=replace(scaling, attention_factor=scaling.magnitude) if rotary and scaling else None,
        rope_fraction=config.rope_fraction if rotary else 1.0,
        positions="none" if config.positions == "rotary" and not rotary else config.positions,
        rope_layers=rotating if rotary and not all(rotating) else None,
        norm_bias=config.norm_bias or config.norm != "layer_norm",
        window_size=config.window_size if any(windows) else None,
        window_layers=windows if any(windows) else None,
        window_rope_theta=window_theta if rotary and any(windows) else None,
        use_moe=moe,
        moe_layers=expert_layers if moe and not all(expert_layers) else None,
        dense_size=config.dense_ffn_size if moe and not all(expert_layers) else None,
        intermediate_size=config.ffn_size if moe else config.dense_ffn_size,
        num_experts=config.num_experts if moe else 0,
        top_k=config.top_k if moe else 0,
        moe_renormalize=config.moe_renormalize or not moe,
        router=config.router if moe else "softmax",
        router_bias=config.router_bias and moe,
        expert_scale=config.expert_scale if moe else 1.0,
        expert_clamp=config.expert_clamp if moe else None,
        shared_expert_size=config.shared_expert_size if moe else None,
        shared_expert_gate=config.shared_expert_gate and moe,
        # Fields that affect only training.
        padding_idx=None,
        dropout=0.0,
        embedding_dropout=None,
        attention_dropout=None,
        mlp_dropout=None,
        gradient_checkpointing=False,
    )
