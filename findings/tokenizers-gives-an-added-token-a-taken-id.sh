#!/usr/bin/env bash
# tokenizers 0.23.3 (seen 2026-11-29, Python 3.11).
#
# The ids of a vocabulary need not be gapless: a published tokenizer may have left out ids that its model keeps as spares.
# tokenizers takes the number of tokens for the size of the vocabulary and for the next free id. So get_vocab_size() is no
# bound of the ids, and an embedding made by it is too small; and add_tokens() hands out ids that other tokens have: two
# texts become the same id, and decode() gives the added one for both.
#
# Seen, for the ids 0, 1, 3, 4: size 4, the added token gets the id 4. Size a table by max(get_vocab().values()) + 1, and
# fill the gaps with named spare tokens before anything is added.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 3, "three": 4}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
size = tokenizer.get_vocab_size()
assert tokenizer.add_tokens(["<tool>"]) == 1
ids = tokenizer.encode("three <tool>").ids
text = tokenizer.decode(ids)
print(f"size {size}, largest id {tokenizer.token_to_id('three')}, ids of 'three <tool>': {ids}, decoded: {text!r}")
assert size == 4
assert ids == [4, 4], ids
assert text == "<tool> <tool>", text
PY
