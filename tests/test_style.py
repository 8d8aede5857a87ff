"""The style of docs/development.md: letters for axes, the field's words, layout by ruff except for tables."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
PACKAGES = ("llm_jax/", "llm_torch_compat/", "benchmarks/")
CODE = [name for name in TRACKED if name.startswith(PACKAGES) and name.endswith(".py") and (ROOT / name).exists()]
PROSE = [
    name
    for name in TRACKED
    if name.endswith((".py", ".md", ".h", ".cc", ".yaml", ".toml"))
    and (ROOT / name).exists()
    and name not in ("tests/test_style.py", "docs/architecture.md")  # rooms are allowed on the map
    and not name.startswith(("scripts/corpus", "tests/docs/promised_examples"))
]

AXES = re.compile(r"^_?[a-z][a-z0-9_]*_([A-Zkh0-9]*[A-Z][A-Zkh0-9]*)$")  # the suffix of an array's name: q_BTNH

# Words of an earlier, private vocabulary, in the sense that they had there.
PRIVATE = re.compile(
    r"\b(Share(?! of)|Feed|Asked|Flights?|Reach|Kind|Ours|Apart|Absent|[Cc]ontenders?|[Hh]iccups?|[Tt]ickets?|"
    r"[Ss]eat(s|ed)?|[Kk]ept|rehearsals?|close_ranks|close ranks)\b"
    r"|\bPATIENCE\b|\b(land|send)s? (a|the) (flight|step)"
    r"|\broom(s)? (for|of|left|beside)\b|\bhas no room\b"
    r"|\b(live|held)_[A-Z]|\.(held|room)\b"
    r"|\brow of the batch\b|\ba place in the batch\b|\bthat is not there\b|\bnobody has\b"
)


def legend() -> dict[str, str]:
    """Letter -> what it counts."""
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?<=\|) ([A-Zkh]) \| ([^|]+?) (?=\|)", text)
    assert len(rows) == len(dict(rows)), "a letter is in the legend twice"
    return dict(rows)


def names(source: str) -> set[str]:
    """Every name that a file gives to something."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                found.add(name)
    return found


def test_the_legend_says_what_each_letter_counts() -> None:
    assert set("BTSDNKHFVL") <= legend().keys()
    assert len(set(legend().values())) == len(legend()), "two letters count the same"


def test_arrays_are_named_with_letters_of_the_legend_alone() -> None:
    letters = legend().keys()
    strangers = {}
    for file in CODE:
        found = names((ROOT / file).read_text(encoding="utf-8"))
        suffixes = {name: match[1] for name in found if (match := AXES.match(name))}
        unknown = {name for name, axes in suffixes.items() if not {c for c in axes if not c.isdigit()} <= letters}
        unknown |= {name for name in found if re.fullmatch("[A-Z]", name)} - letters
        if unknown:
            strangers[file] = unknown
    assert strangers == {}


def test_no_word_of_the_private_vocabulary_is_left() -> None:
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in PROSE
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert found == []


def test_ruff_lays_out_everything_but_tables() -> None:
    """A table is a literal or a call that ends on a line of its own, with several entries in each line before."""
    loose = [
        f"{file}:{number}"
        for file in TRACKED
        if file.endswith(".py") and file != "tests/test_style.py" and (ROOT / file).exists()
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1)
        if "fmt: skip" in line and not re.fullmatch(r"\s*[\])}]\s+# fmt: skip", line)
    ]
    assert loose == []


@pytest.mark.parametrize("word", ["Share", "kept", "the ticket", "room for a context", "live_R", "a row of the batch"])
def test_the_pattern_finds_what_it_should(word: str) -> None:
    assert PRIVATE.search(f"x = {word}")
