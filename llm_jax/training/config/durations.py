"""Lengths in steps, tokens or epochs."""

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from llm_jax.errors import ConfigError

Unit = Literal["steps", "tokens", "epochs"]
UNITS: tuple[Unit, ...] = get_args(Unit)
FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
FORM = re.compile(
    r"(?P<count>[\d_]+(\.\d+)?(e\d+)?)\s*(?P<factor>[kmb]?)\s+(?P<unit>step|token|epoch)s?", re.IGNORECASE
)


@dataclass(frozen=True)
class Duration:
    """A part of a run.

    >>> Duration.parse("2.5M tokens").steps(per_epoch=100, tokens_per_step=1000)
    2500
    """

    count: float
    unit: Unit

    @classmethod
    def parse(cls, text: str, name: str = "") -> Self:
        """`500 steps`, `2.5M tokens`, `0.5 epochs`.

        Raises:
            ConfigError: the text has another form; it names the field `name`.
        """
        match = FORM.fullmatch(text.strip())
        if match is None or float(match["count"]) <= 0:
            allowed = 'a number with its unit, such as "500 steps", "2.5M tokens" or "0.5 epochs"'
            raise ConfigError(f"{name} is {text!r}; it must be {allowed}.", name)
        count = float(match["count"]) * FACTORS[match["factor"].lower()]
        unit = next(unit for unit in UNITS if unit.startswith(match["unit"].lower()))
        return cls(count, unit)

    def steps(self, *, per_epoch: int, tokens_per_step: int) -> int:
        """So many optimiser steps, at least one."""
        size = {"steps": 1.0, "tokens": 1 / tokens_per_step, "epochs": per_epoch}[self.unit]
        return max(1, round(self.count * size))
