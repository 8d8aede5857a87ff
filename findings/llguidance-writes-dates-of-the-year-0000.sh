#!/usr/bin/env bash
# llguidance 1.9.1 and jsonschema 4.26.0 (seen 2026-11-28, Python 3.11).
#
# For {"type": "string", "format": "date"} llguidance's grammar keeps to months and to the days of each, and allows the
# year 0000. RFC 3339 allows it too; Python's dates begin with the year 1. So what a model wrote under the schema, with
# every token allowed, is then refused by jsonschema's format checker, whose "date" is datetime.date.fromisoformat.
#
# A pattern that excludes the year (^(?!0000) is not available: look-aheads are refused) has to name the other years.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llguidance==1.9.1 jsonschema==4.26.0
cat > "$folder/dates.py" <<'PY'
import json

import jsonschema
from llguidance import LLMatcher, LLTokenizer

schema = {"type": "string", "format": "date"}
tokenizer = LLTokenizer("byte")
validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def is_written(text: str) -> bool:
    """Whether the grammar lets a model write this text, and end there."""
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema), log_level=0)
    return matcher.consume_tokens(tokenizer.tokenize_str(json.dumps(text))) and matcher.is_accepting()


for date, written, valid in (("2024-02-29", True, True), ("2026-13-01", False, False), ("0000-02-28", True, False)):
    print(date, "is written:", is_written(date), "is valid:", validator.is_valid(date))
    assert (is_written(date), validator.is_valid(date)) == (written, valid)
PY
"$folder/venv/bin/python" "$folder/dates.py"
