"""Windows in which every token is predicted once."""

import itertools

import numpy as np
import pytest

from llm_jax.data import Encoded, TokenSequences, TokenWindows, unigram_entropy, windows
from llm_jax.errors import DataError


def stream(ids):
    """Tokens as two sequences."""
    ids = list(ids)
    return TokenSequences.of([Encoded(ids[:3], None, 3), Encoded(ids[3:], None, len(ids) - 3)])


@pytest.mark.parametrize(("count", "length"), [(21, 5), (22, 5), (25, 5), (6, 5), (100, 7)])
def test_every_token_but_the_first_is_a_label_once(count, length):
    source = TokenWindows(stream(range(1, count + 1)), length)
    labels = []
    for i in range(len(source)):
        window = source[i]
        counted = window["weights"] == 1
        assert (window["targets"][counted] == window["inputs"][counted] + 1).all(), "a label is the token that follows"
        labels += window["targets"][counted].tolist()
    assert labels == list(range(2, count + 1))


def test_overlapping_windows_share_tokens_and_reach_the_end():
    source = TokenWindows(stream(range(30)), 8, overlap=3)
    rows = [source[i] for i in range(len(source))]
    for before, after in itertools.pairwise(rows):
        assert before["inputs"][-3:].tolist() == after["inputs"][:3].tolist()
    assert rows[-1]["targets"][rows[-1]["weights"] == 1][-1] == 29
    assert sum(row["weights"].sum() for row in rows[:-1]) < 8 * len(rows)


def test_too_little_text_names_both_sizes():
    with pytest.raises(DataError, match=r"5 tokens.*= 9"):
        windows(stream(range(5)), 8, overlap=0, pad=None, name="training")


def test_unigram_entropy():
    assert unigram_entropy(stream([0, 1, 2, 3] * 10)) == pytest.approx(np.log(4))
    assert unigram_entropy(stream([0, 0, 0, 5])) == pytest.approx(0.75 * np.log(4 / 3) + 0.25 * np.log(4))
