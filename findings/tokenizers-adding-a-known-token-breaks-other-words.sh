#!/usr/bin/env bash
# tokenizers 0.23.3 (seen 2026-11-29, Python 3.11).
#
# add_tokens() and add_special_tokens() take a token that the vocabulary has already, keep its id and leave the size as
# it was, which looks as if nothing had happened. But an added token is cut out of the text before the model sees it, in
# the middle of words too: every longer token that contains it is out of reach from then on. To declare a short, common
# token as the padding or the end of a turn, "!" or "." say, changes the ids of all texts that a model was trained on.
#
# Seen, "abab": [2, 2] before, [0, 1, 0, 1] after "b", id 1, was added, with the size of 3 unchanged; with
# single_word=True [2, 2]. Add a token of a new spelling.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from tokenizers import AddedToken, Tokenizer, models


def encoded(*added):
    """The ids of "abab", and the vocabulary's size."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    tokenizer.add_special_tokens(list(added))
    assert tokenizer.token_to_id("b") == 1
    return tokenizer.encode("abab").ids, tokenizer.get_vocab_size()


found = {"before": encoded(), "b": encoded("b"), "a single word": encoded(AddedToken("b", single_word=True))}
for name, (ids, size) in found.items():
    print(f"{name}: {ids}, size {size}")
assert found["before"] == ([2, 2], 3)
assert found["b"] == ([0, 1, 0, 1], 3)
assert found["a single word"] == ([2, 2], 3)
PY
