"""The fenced code blocks of a Markdown file."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"(?:<!-- not run: (?P<why>.*?) -->\n)?^```(?P<language>.*)\n(?P<text>(?s:.*?))^```$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: file and line, for people.
        not_run: why it is not run: the text of a comment `<!-- not run: … -->` in the line above it.
    """

    language: str
    text: str
    place: str
    not_run: str | None


def code_blocks(document: Path) -> list[Block]:
    source = document.read_text(encoding="utf-8")
    return [
        Block(
            language=match["language"],
            text=match["text"],
            place=f"{document.name}:{source.count(chr(10), 0, match.start('language')) + 1}",
            not_run=match["why"],
        )
        for match in FENCE.finditer(source)
    ]
