#!/usr/bin/env bash
# outlines_core 0.2.14, jsonschema 4.26.0 (seen 2026-11-29, Python 3.11).
#
# build_regex_from_schema makes the expression that constrains what a model writes. Of a string with a pattern and a
# length it keeps the length and drops the pattern. A pattern without anchors, which in JSON Schema may match anywhere,
# becomes the whole string. And the bounds of numbers, multipleOf, uniqueItems and minProperties are left out. There is
# neither an error nor a warning, while a format that it does not know is refused: so an answer in which every token was
# allowed may break the schema, and must be validated like any other.
#
# Seen: "zz" fits {minLength: 2, pattern: "^a+$"}, 3 fits {minimum: 5}; "abc" does not fit {pattern: "b"}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check outlines_core==0.2.14 jsonschema==4.26.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import re

import jsonschema
from outlines_core.json_schema import build_regex_from_schema


def verdicts(schema, value):
    """Whether the expression lets a model write the value, and whether it is valid."""
    written = re.fullmatch(build_regex_from_schema(json.dumps(schema)), json.dumps(value)) is not None
    return written, jsonschema.Draft202012Validator(schema).is_valid(value)


cases = {
    "length and pattern": ({"type": "string", "minLength": 2, "pattern": "^a+$"}, "zz"),
    "minimum": ({"type": "integer", "minimum": 5}, 3),
    "multipleOf": ({"type": "integer", "multipleOf": 2}, 3),
    "uniqueItems": ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, [1, 1]),
    "pattern": ({"type": "string", "pattern": "b"}, "abc"),
    "anchored pattern": ({"type": "string", "pattern": "^a+$"}, "zz"),
}
found = {name: verdicts(*case) for name, case in cases.items()}
for name, (written, valid) in found.items():
    print(f"{name}: {'can' if written else 'cannot'} be written, is {'valid' if valid else 'invalid'}")
assert found.pop("pattern") == (False, True)
assert found.pop("anchored pattern") == (False, False)
assert set(found.values()) == {(True, False)}, found
PY
