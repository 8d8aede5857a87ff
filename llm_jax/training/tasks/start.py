"""The parameters that a decoder's training begins with, which of them it changes, and how they are saved."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.checkpoint import GenerationDefaults, StoredModel, new_adapter, save_model, write_adapter
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.hub import find, open_pretrained
from llm_jax.model import Adapter, Model, Params, adapted, freeze, init_lora, init_params, merged_weight, param_shapes
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import ModelSection, TrainConfig
from llm_jax.training.tasks.balance import check_experts
from llm_jax.training.tasks.vocabulary import fit_vocabulary, grown

# With a model to start from, what may be another than that model's.
ADJUSTABLE = frozenset(
    {"dropout", "embedding_dropout", "attention_dropout", "mlp_dropout", "gradient_checkpointing", "vocab_size"}
    | {"max_seq_len", "rope_scaling", "rope_theta"}
)


def open_start(section: ModelSection) -> StoredModel | None:
    """The model to start from, its weights unread; None for a new one.

    Raises:
        CheckpointError: there is none at model.init_from.
    """
    return None if section.init_from is None else open_pretrained(section.init_from)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A decoder before its first step.

    Attributes:
        stored: the model to start from; None for a new one.
        adapter: what is trained beside it; without one, its own parameters are.
        frozen: names of parameters that stay as they are.
        base: what adapters say they belong to.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    stored: StoredModel | None
    lora: LoraConfig
    adapter: Adapter | None
    frozen: frozenset[str]
    base: str | None

    @classmethod
    def build(cls, config: TrainConfig, stored: StoredModel | None, tokenizer: Tokenizer) -> Self:
        """What a configuration asks for, of the model that `open_start` found.

        Raises:
            ConfigError: model.vocab_size is too small for the tokenizer, a field contradicts the model to start from,
                a target of the adapter or a pattern of frozen parameters matches nothing, or experts are to be balanced
                and there are none.
        """
        section, lora = config.model, config.lora
        architecture = section.architecture if stored is None else _adjusted(config, stored)
        architecture = fit_vocabulary(config, architecture, tokenizer)
        check_experts(config.training, architecture)
        adapter = None
        if lora.rank:
            if stored is None or section.init_from is None:
                raise ConfigError(
                    "lora.rank is set, and an adapter needs a model beside it: set model.init_from.", "rank"
                )
            adapter = new_adapter(lora, architecture, find(section.init_from))
        frozen = _frozen(config.training.freeze, architecture)
        if adapter is not None and frozen:
            raise ConfigError("training.freeze is set, and with lora.rank all parameters of the model are frozen.")
        base = section.init_from
        if base is not None and Path(base).exists():
            base = str(Path(base).absolute())
        return cls(
            config=architecture,
            tokenizer=tokenizer,
            stored=stored,
            lora=lora,
            adapter=adapter,
            frozen=frozen,
            base=base,
        )

    def init_trainable(self, seed: int) -> Params:
        if self.adapter is not None:
            return init_lora(self.adapter, self._initial(seed) if self.lora.dora else {}, seed)
        return {name: value for name, value in self._initial(seed).items() if name not in self.frozen}

    def init_frozen(self, seed: int) -> Params:
        if self.adapter is not None:
            return {name: freeze(self.config, name, value, self.lora.base_dtype) for name, value in self._each(seed)}
        if not self.frozen:
            return {}
        return {name: value for name, value in self._initial(seed).items() if name in self.frozen}

    def params(self, trainable: Params, frozen: Params, dropout_key: Array | None) -> Params:
        """What `forward` computes with."""
        if self.adapter is None:
            return frozen | trainable
        return adapted(self.adapter, trainable, frozen, dropout_key=dropout_key)

    def merged(self, trainable: Params, frozen: Params) -> Params:
        """Those of the whole model, float32, with the changes of the adapter in its weights."""
        if self.adapter is None:
            return self.saved_params(trainable, frozen)
        lora = {name: np.asarray(value) for name, value in trainable.items()}
        changed = {rows.linear for module in self.adapter.modules for rows in module.outputs}
        params = self._initial(0)
        merged = {f"{x}.weight": merged_weight(x, params[f"{x}.weight"], self.adapter, lora) for x in changed}
        return params | {name: jnp.array(value) for name, value in merged.items()}

    def saved_params(self, trainable: Params, frozen: Params) -> Params:
        """Those of the adapter, or of the whole model."""
        params, names = frozen | trainable, param_shapes(self.config) if self.adapter is None else self.adapter.shapes()
        return {name: params[name] for name in names}

    def save(self, directory: Path, params: Mapping[str, Any]) -> None:
        """A model directory, or that of an adapter."""
        if self.adapter is not None:
            write_adapter(
                directory,
                self.adapter,
                params,
                self.lora,
                self.config,
                base=self.base,
                tokenizer=self.tokenizer,
            )
            return
        save_model(directory, Model(self.config, dict(params)), self.tokenizer, self._generation())

    def _generation(self) -> GenerationDefaults:
        """Of the model to start from, with the end of the tokenizer's texts."""
        own = GenerationDefaults.of_tokenizer(self.tokenizer)
        if self.stored is None:
            return own
        eos_ids = tuple(dict.fromkeys([*self.stored.generation.eos_ids, *own.eos_ids]))
        return dataclasses.replace(self.stored.generation, eos_ids=eos_ids)

    def _initial(self, seed: int) -> Params:
        """All parameters before the first step, float32; the vocabulary of a model to start from is grown."""
        return dict(self._each(seed))

    def _each(self, seed: int) -> Iterator[tuple[str, Array]]:
        """The same one by one."""
        if self.stored is None:
            yield from init_params(self.config, seed).items()
            return
        for name, tensor in self.stored.params.items():
            yield name, jnp.array(grown(name, np.asarray(tensor, np.float32), self.config.vocab_size))


def _adjusted(config: TrainConfig, stored: StoredModel) -> ModelConfig:
    """The architecture of the model to start from, with what the configuration may change in it."""
    given = config.model.set_fields(config.model_given)
    for name, value in given.items():
        own = getattr(stored.config, name)
        if name not in ADJUSTABLE and value != own:
            raise ConfigError(
                f"model.{name} is {value!r}, but the model in {stored.path}, which model.init_from names, has {own!r}. "
                "Leave it out.",
                name,
            )
    if stored.config.positions == "learned" and given.get("max_seq_len", 0) > stored.config.max_seq_len:
        raise ConfigError(
            f"model.max_seq_len is {given['max_seq_len']}, but the model in {stored.path} has learnt "
            f"{stored.config.max_seq_len} positions. Lower it."
        )
    return dataclasses.replace(stored.config, **{name: given[name] for name in given if name in ADJUSTABLE})


def _frozen(patterns: tuple[str, ...], config: ModelConfig) -> frozenset[str]:
    """The parameters in whose names one of the regular expressions is found.

    Raises:
        ConfigError: one is found in none, or all parameters are frozen.
    """
    names, frozen = list(param_shapes(config)), set()
    for pattern in patterns:
        found = {name for name in names if re.search(pattern, name)}
        if not found:
            raise ConfigError(
                f"training.freeze has {pattern!r}, which no parameter's name has. They are {', '.join(names)}."
            )
        frozen |= found
    if len(frozen) == len(names):
        raise ConfigError(f"training.freeze is {list(patterns)}, which leaves nothing to train.")
    return frozenset(frozen)
