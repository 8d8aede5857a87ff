"""What a family of models is: a mapping between our ModelConfig and its config.json, and a table of names.

Both are read in both directions. Whether a model of ours can be written as some family is not declared but tried:
it can, if reading back what the family writes gives the same architecture.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llm_jax.checkpoint.names import Rule, read_names, write_names
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError, ConfigError

Json = dict[str, Any]

REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """One entry of config.json: its name, what its absence means, and how it becomes our value and back.

    `aliases` are other names under which it has been written.
    """

    name: str
    default: Any = REQUIRED
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value
    aliases: tuple[str, ...] = ()

    def find(self, theirs: Json) -> Any:
        return next((theirs[name] for name in (self.name, *self.aliases) if name in theirs), self.default)


@dataclass(frozen=True)
class Section:
    """Entries of config.json that map onto ours only together."""

    read: Callable[[Json], Json]
    write: Callable[[ModelConfig], Json]


@dataclass(frozen=True)
class Family:
    """A family of architectures, as transformers stores it.

    Attributes:
        model_type, architecture: what config.json says in `model_type` and `architectures`.
        keys: our field -> their entry.
        always: our fields that have one value throughout the family.
        sections: entries that need more than renaming.
        unsupported: their entries that may only have this value; with another one the decoder would differ.
        table: the names, for a given architecture.
        prefix: stands before the names of the body; files of the bare body lack it.
        ignored: names that may stand in a file and are not parameters (buffers, tied heads).
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

    def read_config(self, theirs: Json) -> ModelConfig:
        """Raises CheckpointError about an entry that is missing, unsupported or out of range."""
        for name, allowed in self.unsupported.items():
            if theirs.get(name) not in (None, allowed):
                raise CheckpointError(
                    f"config.json says {name}: {theirs[name]!r}, which this decoder does not compute "
                    f"(only {allowed!r})."
                )
        ours = dict(self.always)
        for name, key in self.keys.items():
            value = key.find(theirs)
            if value is REQUIRED:
                raise CheckpointError(f"config.json lacks {key.name}, which every {self.model_type} model has.")
            ours[name] = key.read(value)
        try:
            for section in self.sections:
                ours |= section.read(theirs)
            return ModelConfig(**ours)
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error} in one of its parts.") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"config.json does not describe a {self.model_type} model: {error}") from error

    def write_config(self, config: ModelConfig) -> Json:
        spelled_out = resolved(config)
        theirs: Json = {"model_type": self.model_type, "architectures": [self.architecture]}
        theirs |= {key.name: key.write(getattr(spelled_out, name)) for name, key in self.keys.items()}
        for section in self.sections:
            theirs |= section.write(config)
        return theirs

    def expresses(self, config: ModelConfig) -> bool:
        """Whether a model of this family can compute exactly what `config` says."""
        try:
            return canonical(self.read_config(self.write_config(config))) == canonical(config)
        except (CheckpointError, KeyError):
            return False

    def read_weights(self, config: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our parameters, of which none is read yet.

        Raises one CheckpointError about all tensors that are missing, unexpected or misshaped.
        """
        prefix = "" if any(name.startswith(self.prefix) for name in theirs) else self.prefix
        names = {prefix + name: name for name in theirs if not self.ignored.search(prefix + name)}
        if config.tie_embeddings:
            names.pop("lm_head.weight", None)  # some writers store the tied table twice
        return read_names(self.table(config), config, {name: theirs[stored] for name, stored in names.items()})

    def write_weights(self, config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their names and tensors."""
        return write_names(self.table(config), config, params)


def resolved(config: ModelConfig) -> ModelConfig:
    """The same architecture with every derived field spelled out."""
    return replace(
        config,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_size,
        intermediate_size=config.ffn_size,
        embedding_scale=config.embedding_multiplier,
        attention_scale=config.attention_multiplier,
        out_bias=config.has_out_bias,
        embedding_dropout=config.dropout_rate(config.embedding_dropout),
        attention_dropout=config.dropout_rate(config.attention_dropout),
        mlp_dropout=config.dropout_rate(config.mlp_dropout),
    )


def canonical(config: ModelConfig) -> ModelConfig:
    """Equal for two configurations exactly when they compute the same function: idle fields stand at a default."""
    rotary = config.positions == "rotary"
    scaling = config.rope_scaling
    # Unset means rope_theta with its scaling; where there is no scaling, the two spellings are one.
    window_theta = config.window_rope_theta or (config.rope_theta if scaling is None else None)
    windows = tuple(config.window(i) is not None for i in range(config.num_layers))
    return replace(
        resolved(config),
        lm_head_bias=config.lm_head_bias and not config.tie_embeddings,
        rope_theta=config.rope_theta if rotary else 10000.0,
        rope_scaling=replace(scaling, attention_factor=scaling.magnitude) if rotary and scaling else None,
        rope_fraction=config.rope_fraction if rotary else 1.0,
        window_size=config.window_size if any(windows) else None,
        window_layers=windows if any(windows) else None,
        window_rope_theta=window_theta if rotary and any(windows) else None,
        num_experts=config.num_experts if config.use_moe else 0,
        top_k=config.top_k if config.use_moe else 0,
        moe_renormalize=config.moe_renormalize or not config.use_moe,
        # What only training sees.
        padding_idx=None,
        dropout=0.0,
        embedding_dropout=None,
        attention_dropout=None,
        mlp_dropout=None,
        gradient_checkpointing=False,
    )
