"""Adapters that serve side by side: their low-rank factors stacked, so that each token gets those of its own.

A linear map has a pair of factors for each slot: y + B_s (A_s x), with the slot s of a token's adapter. None of their
shapes depends on which adapters there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError
from llm_jax.model.lora import Adapter
from llm_jax.model.model import FACTOR, Params
from llm_jax.model.shapes import param_shapes

SLOT = ".lora.slot"
LINEAR = re.compile(r"(.*\.(self_attn\.(qkv|out)_proj|mlp\.(shared_expert\.)?(fc1|fc2|gate_proj)))\.weight")
RANK = 16  # where nothing says which
FUSED = "self_attn.qkv_proj"  # beside it there may be three modules, with ranks of their own


@dataclass(frozen=True)
class AdapterCapacity:
    """Slots for adapters of one model.

    Attributes:
        slots: how many adapters there may be at a time.
        rank: the highest of any module of them.
        linears: the linear maps that may have factors beside them.
    """

    slots: int
    rank: int
    linears: tuple[str, ...]

    @classmethod
    def of(
        cls, config: ModelConfig, adapters: Mapping[str, Adapter], *, slots: int | None = None, rank: int | None = None
    ) -> "AdapterCapacity":
        """What these adapters need, and at least so many slots. Without any, every linear map but the head.

        Raises:
            ConfigError: an adapter changes what none may that serves beside others, or has a higher rank than `rank`.
        """
        modules = [module for adapter in adapters.values() for module in adapter.modules]
        linears = {rows.linear for module in modules for rows in module.outputs}
        if not adapters:
            linears = {match[1] for name in param_shapes(config) if (match := LINEAR.fullmatch(name))}
        highest = max((module.rank for module in modules), default=RANK)
        capacity = cls(max(slots or 1, len(adapters)), rank or highest, tuple(sorted(linears)))
        for name, adapter in adapters.items():
            capacity.check(name, adapter)
        return capacity

    def check(self, name: str, adapter: Adapter) -> None:
        """
        Raises:
            ConfigError: an adapter does not fit.
        """
        for module in adapter.modules:
            merge = "merge it into its model instead, with llm-convert --adapter"
            if module.dora:
                raise ConfigError(f"Adapter {name} is of DoRA, which cannot serve beside others; {merge}.")
            if any(rows.linear == "lm_head" for rows in module.outputs):
                raise ConfigError(f"Adapter {name} changes the output head, which no adapter served can; {merge}.")
            if module.rank > self.rank:
                raise ConfigError(
                    f"Adapter {name} has the rank {module.rank}, and there is space for {self.rank}; "
                    "set max_adapter_rank."
                )
            missing = next((rows.linear for rows in module.outputs if rows.linear not in self.linears), None)
            if missing is not None:
                raise ConfigError(
                    f"Adapter {name} changes {missing}, and none of the adapters that the engine was made with does; "
                    "start it with this one too."
                )

    @property
    def changes_gates(self) -> bool:
        """Whether the first maps of feed-forward blocks are among them, which then are not packed with their gates."""
        return any(linear.endswith((".fc1", ".gate_proj")) for linear in self.linears)

    def ranks(self, linear: str) -> int:
        """The rank of each slot's factors."""
        return self.rank * (3 if linear.endswith(FUSED) else 1)


class AdapterStack:
    """The factors of all slots, as parameters beside those of the model.

    Attributes:
        params: for `forward_hidden`, with `adapter_rows`; replaced as a whole: a step goes on with those it has.
    """

    def __init__(self, config: ModelConfig, capacity: AdapterCapacity, dtype: Any, sharding: Any = None) -> None:
        self._capacity, self._dtype, self._sharding = capacity, dtype, sharding
        self._a: dict[str, np.ndarray] = {}  # never written to: a device may compute with the same memory
        self._b: dict[str, np.ndarray] = {}
        shapes = param_shapes(config)
        for linear in capacity.linears:
            O, I = shapes[f"{linear}.weight"].shape
            s, Q = capacity.slots, capacity.ranks(linear)
            self._a[linear], self._b[linear] = np.zeros((s, Q, I), dtype), np.zeros((s, Q, O), dtype)
        self.params = self._factors(capacity.linears)

    def write(self, slot: int, adapter: Adapter, lora: Mapping[str, Any]) -> None:
        """Puts an adapter into a slot, in place of what was there."""
        linears = self._capacity.linears
        filled = dict.fromkeys(linears, 0)
        for linear in linears:
            self._a[linear], self._b[linear] = self._a[linear].copy(), self._b[linear].copy()
            self._a[linear][slot], self._b[linear][slot] = 0, 0
        for module in adapter.modules:
            a_QI, b_OQ = np.asarray(lora[module.a]), np.asarray(lora[module.b], np.float32) * module.scale
            for (linear, first, size), part in module.parts():
                ranks = slice(filled[linear], filled[linear] + module.rank)
                self._a[linear][slot, ranks] = a_QI
                self._b[linear][slot, ranks, first : first + size] = b_OQ[part].T
                filled[linear] += module.rank
        self.params = self._factors(linears)

    def _factors(self, linears: tuple[str, ...]) -> Params:
        factors = {linear + FACTOR: self._put(self._a[linear]) for linear in linears}
        return factors | {f"{linear}.lora.b": self._put(self._b[linear]) for linear in linears}

    def _put(self, array: np.ndarray) -> Array:
        return jax.device_put(array, self._sharding)


def adapter_rows(params: Params, slot_BT: Array) -> Params:
    """The parameters with the slot of each token's adapter; -1 is none."""
    return params | {name.removesuffix(FACTOR) + SLOT: slot_BT for name in params if name.endswith(FACTOR)}
