"""What may change when a run is resumed, and what must not."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jax.errors import ConfigError
from llm_jax.training.config import SECTIONS, TrainConfig

# Settings that decide which examples a step sees, what is computed from them, and what the state consists of. All
# others may change, and paths: files may move, what is in them is compared.
_TRAINING = {"batch_size", "num_samples", "seed", "run_validation"}
_TRAINING |= {"optimizer", "moment_dtype", "ema_decay", "freeze"}
FIXED: dict[str, Callable[[str], bool]] = {
    "model": lambda name: name not in ("gradient_checkpointing", "init_from"),
    "data": lambda name: not name.endswith(("_path", "_dir")) and name != "validation",
    "training": _TRAINING.__contains__,
    "lora": lambda name: True,
    "preference": lambda name: True,
    "distillation": lambda name: name != "teacher",
    "optimization": {"use_amp", "amp_dtype", "gradient_accumulation_steps"}.__contains__,
}
REPORTED = "training"  # the section whose changes are legitimate, but change the result


@dataclass(frozen=True)
class Identity:
    """The configuration of a run, and values that follow from it and from its data.

    Attributes:
        derived: plain values by what a person would call them.
    """

    config: TrainConfig
    derived: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        config = {name: dataclasses.asdict(getattr(self.config, name)) for name in SECTIONS}
        values: dict[str, Any] = json.loads(json.dumps({"config": config, "derived": dict(self.derived)}))
        return values

    def check(self, saved: Mapping[str, Any], run: Path, report: Callable[[str], None]) -> None:
        """Compare with what was saved by `to_dict`; changes that are allowed, but count, are reported.

        A setting or value that one of the two lacks has its default there.

        Raises:
            ConfigError: something changed that must not.
        """
        now = self.to_dict()
        for section, cls in SECTIONS.items():
            defaults = json.loads(json.dumps(_defaults(cls)))
            before, after = saved["config"].get(section, {}), now["config"][section]
            for name in after:
                old, new = before.get(name, defaults.get(name)), after[name]
                if old == new:
                    continue
                if FIXED.get(section, _nothing)(name):
                    raise _changed(f"{section}.{name}", old, new, run)
                if section == REPORTED:
                    report(
                        f"{section}.{name} was {_shown(old)} in the run in {run}, and is {_shown(new)} from here on."
                    )
        defaults = _defaults(SECTIONS["model"])
        for name in saved["derived"].keys() | now["derived"].keys():
            old, new = (values["derived"].get(name, defaults.get(name)) for values in (saved, now))
            if old != new:
                raise _changed(name, old, new, run)


def _defaults(cls: type[Any]) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}


def _nothing(name: str) -> bool:
    return False


def _changed(name: str, old: Any, new: Any, run: Path) -> ConfigError:
    return ConfigError(
        f"{name} was {_shown(old)} in the run in {run}, and is {_shown(new)} now. It must stay when a run is resumed: "
        "set it back, or start a new run in another checkpoint_dir.",
        name,
    )


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
