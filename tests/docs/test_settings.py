"""The usage guide names every setting that exists, and no other."""

import dataclasses
import re

from llm_jax.training.config import SECTIONS
from server.settings import PREFIX, Settings, setting_names, variable_name
from tests.docs.workplace import ROOT

USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")


def test_server_settings() -> None:
    named = set(re.findall(PREFIX + r"[A-Z_]+", USAGE))
    assert named == {variable_name(name) for field in dataclasses.fields(Settings) for name in setting_names(field)}


def test_training_settings() -> None:
    tables = {
        section: table
        for section, table in re.findall(r"^\| `(\w+)` \| Default \|.*\n((?:\|.*\n)+)", USAGE, re.M)
        if section in SECTIONS
    }
    assert tables.keys() == SECTIONS.keys()
    missing = [
        f"{section}.{field.name}"
        for section, fields in SECTIONS.items()
        for field in dataclasses.fields(fields)
        if f"`{field.name}`" not in tables[section]
    ]
    assert missing == []
