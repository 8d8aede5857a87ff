"""The recipes of configs/: a comment at the head of each says how to run it, what it reaches, and how long it takes."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
STATED = re.compile(r"validation loss of (\d+(?:\.\d+)?) in (\d+(?:\.\d+)?) minutes?")


@dataclass(frozen=True)
class Recipe:
    """What a recipe's head says.

    Attributes:
        commands: to be run in turn in a checkout; the last one trains.
        loss: the validation loss that it reaches at most; None of one that is not for two cores.
        minutes: that all commands take at most, on two cores.
    """

    name: str
    commands: tuple[str, ...]
    loss: float | None
    minutes: float | None

    @classmethod
    def read(cls, name: str) -> Self:
        text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
        head = [line.removeprefix("#") for line in text.split("\n\n")[0].splitlines()]
        commands = tuple(line.strip() for line in head if line.startswith("   "))
        stated = STATED.search(" ".join(line.strip() for line in head))
        loss, minutes = (float(stated[1]), float(stated[2])) if stated else (None, None)
        return cls(name, commands, loss, minutes)

    @property
    def task(self) -> str:
        arguments = shlex.split(self.commands[-1])
        return arguments[arguments.index("--task") + 1]

    def run(self, *flags: str, variables: Mapping[str, str] | None = None) -> None:
        """Run the commands, the last with further flags. Raises CalledProcessError where one fails."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = os.environ | {"PATH": path} | dict(variables or {})
        *before, training = map(shlex.split, self.commands)
        for command in (*before, [*training, *flags]):
            subprocess.run(command, cwd=ROOT, env=environment, check=True)


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
