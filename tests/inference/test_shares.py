"""A step's work, cut into runs and laid out as arrays: nothing is lost, nothing is put where it does not belong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.inference.engine.batch import Asked, Feed
from llm_jax.inference.engine.buckets import LEAST_ROOM, Buckets
from llm_jax.inference.engine.pace import PATIENCE, Pace
from llm_jax.inference.engine.shares import LAST, Share, rehearsal, runs

MAX_BATCH, MAX_LEN = 12, 700


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Share], list[Share]]:
    """What rows that are past their prompts do, and what the others do; some of these nothing."""
    decoding, prompts = [], []
    for row in draw(st.lists(st.integers(0, MAX_BATCH - 1), unique=True, min_size=1)):
        start = draw(st.integers(0, MAX_LEN - 20))
        length = draw(st.sampled_from([None, None, 0, 1, 7, 20]))
        if length is None:
            decoding.append(Share(row, start, [LAST]))
        else:
            prompts.append(Share(row, start, range(1, 1 + length), is_asked=length == 20))
    return decoding, prompts


@pytest.mark.parametrize("is_ragged", [True, False])
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(work=steps())
def test_every_share_is_run_once_where_its_row_stands(is_ragged: bool, work: tuple[list[Share], list[Share]]) -> None:
    decoding, prompts = work
    buckets = Buckets(MAX_BATCH, MAX_LEN, is_ragged=is_ragged)
    known = set(buckets.all_shapes())
    served: dict[int, list[int]] = {}
    for run in runs(buckets, decoding, prompts):
        assert run.shape in known
        feed = Feed.of(run)
        assert feed.token_BT.shape == (run.shape.batch, run.shape.length)
        starts = feed.layout.starts
        of_rows = feed.token_BT if starts is None else np.split(feed.token_BT[0], starts[1:-1])
        for row, tokens in enumerate(of_rows):
            live = int(feed.layout.new_R[row])
            if not live:
                continue
            assert row + run.first not in served
            served[row + run.first] = tokens[:live].tolist()
            [share] = [share for share in run.shares if share.row == row + run.first]
            assert int(feed.layout.cached_R[row]) == share.start
            assert feed.token_BT.flat[feed.out_PR[0, row]] == share.tokens[-1]
            assert share.end <= run.shape.context
        asked = Asked.of(run, buckets.asked(run.shape, 1 + max(s.row - run.first for s in run.shares)), np.ones((1, 1)))
        assert {i + run.first for i in np.flatnonzero(asked.active_B)} == {s.row for s in run.shares if s.is_asked}
    assert served == {share.row: list(share.tokens) for share in (*decoding, *prompts) if share.tokens}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(work=steps())
def test_a_row_that_waits_is_written_behind_what_it_holds(work: tuple[list[Share], list[Share]]) -> None:
    """XLA writes for every row of a batch: where nothing is lost."""
    decoding, prompts = work
    made = runs(Buckets(MAX_BATCH, MAX_LEN), decoding, prompts)
    if decoding:
        layout = Feed.of(made[-1]).layout
        for share in prompts:
            if share.row < len(layout.cached_R):
                assert (layout.new_R[share.row], layout.cached_R[share.row]) == (0, share.end)


def test_guesses_are_looked_at_from_the_last_token_on() -> None:
    buckets = Buckets(MAX_BATCH, MAX_LEN, draft=7, is_ragged=True)
    [run] = runs(buckets, [Share(0, 40, [LAST, 5, 6], guesses=2)], [])
    feed, asked = Feed.of(run), Asked.of(run, buckets.asked(run.shape, 1), np.ones((1, 9)))
    assert feed.token_BT.flat[feed.out_PR[:3, 0]].tolist() == [LAST, 5, 6]
    assert (asked.drafts_BK[0, :2].tolist(), int(asked.draft_count_B[0])) == ([5, 6], 2)


@pytest.mark.parametrize("is_ragged", [True, False])
def test_a_rehearsal_fills_its_shape(is_ragged: bool) -> None:
    for shape in Buckets(MAX_BATCH, MAX_LEN, draft=7, is_ragged=is_ragged).all_shapes():
        run = rehearsal(shape)
        assert sum(len(share.tokens) for share in run.shares) == shape.batch * shape.length
        assert int(Feed.of(run).layout.new_R.sum()) == shape.batch * shape.length


@pytest.mark.parametrize("max_batch", [1, 2, 8, 255, 256, 1000])
def test_a_prompt_always_advances(max_batch: int) -> None:
    assert max(Buckets(max_batch, MAX_LEN, is_ragged=True).rooms(max_batch)) >= LEAST_ROOM


def test_a_prompt_takes_the_best_rate_that_streams_have_patience_for() -> None:
    pace = Pace()
    for size, seconds in {"plain": 10.0, 8: 11.0, 64: 10 * PATIENCE - 1, 256: 10 * PATIENCE + 1}.items():
        pace.note(size, seconds)
    steps = {n: [n] for n in (8, 64, 256)}
    assert pace.room(steps, ["plain"], wanted=1000) == 64  # 256 would be faster for the prompt
    assert pace.room(steps, ["plain"], wanted=5) == 8  # a larger one would only be padded
    assert pace.room(steps, [], wanted=1000) == 256
    assert pace.room({256: [256]}, ["plain"], wanted=1000) == 256  # something must go on


def test_where_no_time_is_known_one_program_holds_the_prompt() -> None:
    steps = {n: [n] for n in (8, 64, 256)}
    assert [Pace().room(steps, [], wanted) for wanted in (3, 9, 65, 999)] == [8, 64, 256, 256]


def test_one_slow_run_counts_little_and_many_count() -> None:
    pace = Pace()
    steps = {8: [8], 64: [64]}
    pace.note(8, 1.0)
    for seconds in (5.0, 500.0):
        pace.note(64, seconds)
    assert pace.room(steps, [], wanted=64) == 64
    for _ in range(10):
        pace.note(64, 9.0)
    assert pace.room(steps, [], wanted=64) == 8
