"""Letters for axes have one meaning each: those of the legend in docs/development.md, and no other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = "llm_jax", "llm_torch_compat", "benchmarks"
CODE = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
AXES = re.compile(r"^_?[a-z][a-z0-9_]*_([A-Zkh0-9]*[A-Z][A-Zkh0-9]*)$")  # the suffix of an array's name: q_BTNH


def legend() -> dict[str, str]:
    """Letter -> what it counts."""
    rows = re.findall(r"^\| ([A-Zkh]) \| (.+?) \|$", (ROOT / "docs" / "development.md").read_text("utf-8"), re.M)
    assert len(rows) == len(dict(rows)), "a letter stands in the legend twice"
    return dict(rows)


def names(path: Path) -> set[str]:
    """Every name that a file gives to something."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                found.add(name)
    return found


def test_the_legend_says_what_each_letter_counts() -> None:
    assert set("BTSDNKHFVL") <= legend().keys()
    assert len(set(legend().values())) == len(legend()), "two letters count the same"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_use_letters_of_the_legend_alone(path: Path) -> None:
    letters = legend().keys()
    suffixes = {name: match[1] for name in names(path) if (match := AXES.match(name))}
    strangers = {name for name, axes in suffixes.items() if not {c for c in axes if not c.isdigit()} <= letters}
    single = {name for name in names(path) if re.fullmatch("[A-Z]", name)} - letters
    assert strangers | single == set()
