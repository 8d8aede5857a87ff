"""Rows hold every sequence once, and a model sees in a row what it sees in each sequence alone."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.config import ModelConfig
from llm_jax.data import Encoded, PackedRows, PreferencePairs, TokenSequences, pair_rows
from llm_jax.data.packing import best_fit
from llm_jax.model import Model
from tests.compiled import forward

CONFIG = ModelConfig(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, max_seq_len=16)


def sequences(lengths, learnt=None):
    """Sequences of ids that are all different, from 1 on."""
    ids = iter(range(1, 10**6))
    made = [[next(ids) for _ in range(length)] for length in lengths]
    marks = learnt or [None] * len(lengths)
    return TokenSequences.of(Encoded(*pair, 9) for pair in zip(made, marks, strict=True))


def labels(rows):
    """(input, target) of all positions that count."""
    found = []
    for row in map(rows.__getitem__, range(len(rows))):
        counted = row["weights"] == 1
        found += zip(row["inputs"][counted].tolist(), row["targets"][counted].tolist(), strict=True)
    return sorted(found)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_best_fit_fills_rows_and_leaves_nothing_out(sizes):
    rows = best_fit(np.array(sizes), 9)
    assert sorted(piece for row in rows for piece in row) == list(range(len(sizes)))
    filled = [sum(sizes[piece] for piece in row) for row in rows]
    assert max(filled) <= 9
    assert all(a + b > 9 for a, b in combinations(filled, 2)), "no two rows fit into one"


@pytest.mark.parametrize("first", [None, 0])
@pytest.mark.parametrize("share", [True, False])
def test_every_token_that_follows_another_is_a_label_once(first, share):
    lengths = [1, 2, 5, 9, 10, 17, 30, 3, 3, 8]
    rows = PackedRows(sequences(lengths), 8, first=first, split=True, share=share)
    starts = np.cumsum([0, *lengths[:-1]]) + 1
    expected = [(token, token + 1) for token in range(1, sum(lengths)) if token + 1 not in starts]
    expected += [(0, int(start)) for start in starts] * (first is not None)
    assert labels(rows) == sorted(expected)
    assert all(("segments" in rows[i]) == share for i in range(len(rows)))


def test_positions_restart_and_padding_is_segment_0():
    rows = PackedRows(sequences([5, 4]), 8, pad=49)
    assert len(rows) == 1
    row = rows[0]
    assert row["segments"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]
    assert row["positions"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert row["inputs"].tolist()[-1] == 49
    assert row["weights"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0]


def test_what_is_beyond_a_row_is_left_out_and_so_is_what_teaches_nothing():
    marks = [[0] * 9 + [1], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 0]]
    rows = PackedRows(sequences([10, 10, 3], marks), 8)
    assert rows.left_out == 1
    assert labels(rows) == [*((token, token + 1) for token in range(12, 19)), (21, 22)]


def test_the_seed_decides_which_share_a_row():
    first, again, other = (PackedRows(sequences([3] * 40), 8, seed=seed) for seed in (1, 1, 2))
    assert [first[i]["inputs"].tolist() for i in range(len(first))] == [
        again[i]["inputs"].tolist() for i in range(len(again))
    ]
    assert first[0]["inputs"].tolist() != other[0]["inputs"].tolist()
    assert first.fingerprint == other.fingerprint != PackedRows(sequences([3] * 41), 8).fingerprint


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal", "alibi"])
def test_packed_sequences_are_as_they_are_alone(positions):
    """Whatever the scheme of positions: logits of each sequence in its row, and of the same one alone."""
    config = ModelConfig(**{**CONFIG.to_dict(), "positions": positions})
    params = Model.init(config, seed=0).params
    store = sequences([7, 5, 3, 8, 9, 4])
    rows = PackedRows(store, 16)
    assert len(rows) < len(store) - 2
    batch = {name: jnp.stack([rows[i][name] for i in range(len(rows))]) for name in rows[0]}
    packed = forward(config, params, batch["inputs"], positions_BT=batch["positions"], segments_BT=batch["segments"])
    alone = PackedRows(store, 16, share=False)
    single = forward(config, params, jnp.stack([alone[i]["inputs"] for i in range(len(alone))]))
    checked = 0
    for sequence in range(len(store)):
        ids, _ = store[sequence]
        row, start = next(
            (r, int(np.flatnonzero(np.asarray(batch["inputs"][r]) == ids[0])[0]))
            for r in range(len(rows))
            if ids[0] in np.asarray(batch["inputs"][r])
        )
        count = len(ids) - 1
        np.testing.assert_allclose(packed[row, start : start + count], single[sequence, :count], atol=2e-6)
        checked += count
    assert checked == batch["weights"].sum()


def test_pairs_are_the_rows_of_both_answers():
    marks = [[0, 0, 1], [0, 0, 1, 1], [0] * 9 + [1], [0, 1], [0, 1], [0, 0, 1]]
    pairs = PreferencePairs(sequences([3, 4, 10, 2, 2, 3], marks), 8)
    assert (len(pairs), pairs.left_out) == (2, 1)
    assert pairs[0]["inputs"][:, :3].tolist() == [[1, 2, 0], [4, 5, 6]]
    assert pairs[1]["targets"][:, :2].tolist() == [[21, 0], [23, 24]]
    batch = {name: np.stack([pairs[0][name], pairs[1][name]]) for name in pairs[0]}
    assert pair_rows(batch)["inputs"][:, 0].tolist() == [1, 20, 4, 22], "the chosen ones, then the rejected ones"
