"""A small language for sentences: [one|or another], {slots}, and the tidying that English wants."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRONOUNS = {"he": ("him", "his", "himself"), "she": ("her", "her", "herself")}


@dataclass(frozen=True)
class Character:
    """Somebody in a story. In a template {h} is the name, {h.he} {h.him} {h.his} {h.self} the pronouns."""

    name: str
    kind: str  # "girl", "boy", or an animal
    trait: str
    he: str
    home: str

    def __str__(self) -> str:
        return self.name

    @property
    def him(self) -> str:
        return PRONOUNS[self.he][0]

    @property
    def his(self) -> str:
        return PRONOUNS[self.he][1]

    @property
    def self(self) -> str:
        return PRONOUNS[self.he][2]

    @property
    def He(self) -> str:
        return self.he.capitalize()

    @property
    def His(self) -> str:
        return self.his.capitalize()

    @property
    def is_child(self) -> bool:
        return self.kind in ("girl", "boy")

    @property
    def intro(self) -> str:
        return f"a {self.trait} {self.kind} named {self.name}"

    @property
    def a(self) -> str:
        return f"a {self.kind}"

    @property
    def full(self) -> str:
        return f"a {self.kind} named {self.name}" if self.is_child else f"{self.name} the {self.kind}"


@dataclass(frozen=True)
class Place:
    """{p} is "the river", {p.at} "by the river"."""

    preposition: str
    noun: str

    def __str__(self) -> str:
        return f"the {self.noun}"

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.noun}"


def sections(name: str) -> dict[str, list[str]]:
    """The lines of a file in text/, under their `# headings`; a blank line ends a section."""
    blocks = (Path(__file__).parent / "text" / name).read_text(encoding="utf-8").strip().split("\n\n")
    return {heading.removeprefix("# "): lines for heading, *lines in (block.splitlines() for block in blocks)}


def write(template: str, slots: Mapping[str, object], rng: random.Random, *, sentence: bool = True) -> str:
    """Choose among the alternatives, fill the slots, and tidy the result."""
    while choice := re.search(r"\[([^\[\]]*)\]", template):
        template = template[: choice.start()] + rng.choice(choice[1].split("|")) + template[choice.end() :]
    return tidy(template.format(**slots), sentence=sentence)


def tidy(text: str, *, sentence: bool = True) -> str:
    """Single spaces, "an" before a vowel, and a capital letter where a sentence or a speech begins."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Aa])n? (?=[aeiou])(?!one\b|use|uni)", r"\1n ", text)
    text = re.sub(r'([!?]),"', r'\1"', text)
    if sentence:
        text = re.sub(r'(^"?|[.!?] "?)([a-z])', lambda match: match[1] + match[2].upper(), text)
    return text
