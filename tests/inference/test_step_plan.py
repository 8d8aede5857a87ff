"""A step's work, cut into forward passes and laid out as arrays: each token once, in the right place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.inference.engine.inputs import ModelInputs, SamplingInputs
from llm_jax.inference.engine.step_plan import LAST_TOKEN, Buckets, Chunk, plan_step

MAX_BATCH, MAX_LEN = 12, 700
TABLES = [np.arange(n, n + 12 * 5).reshape(12, 5) for n in (0, 100)]


@st.composite
def chunks(draw: st.DrawFn) -> tuple[list[Chunk], list[Chunk]]:
    """The chunks of sequences that decode, and of those that prefill; some of these are empty."""
    decoding, prefilling = [], []
    for slot in draw(st.lists(st.integers(0, MAX_BATCH - 1), unique=True, min_size=1)):
        start = draw(st.integers(0, MAX_LEN - 20))
        length = draw(st.sampled_from([None, None, 0, 1, 7, 20]))
        if length is None:
            decoding.append(Chunk(slot, start, [LAST_TOKEN]))
        else:
            prefilling.append(Chunk(slot, start, range(1, 1 + length), is_sampled=length == 20))
    return decoding, prefilling


@pytest.mark.parametrize("is_ragged", [True, False])
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(work=chunks())
def test_every_chunk_is_computed_once_behind_what_its_slot_has_cached(
    is_ragged: bool, work: tuple[list[Chunk], list[Chunk]]
) -> None:
    decoding, prefilling = work
    buckets = Buckets(MAX_BATCH, MAX_LEN, is_ragged=is_ragged)
    known = set(buckets.all_shapes())
    served: dict[int, list[int]] = {}
    for forward_pass in plan_step(buckets, decoding, prefilling):
        assert forward_pass.shape in known
        inputs = ModelInputs.of(forward_pass, TABLES, 3)
        assert inputs.token_BT.shape == (forward_pass.shape.batch, forward_pass.shape.length)
        starts = inputs.layout.starts
        of_sequences = inputs.token_BT if starts is None else np.split(inputs.token_BT[0], starts[1:-1])
        for index, tokens in enumerate(of_sequences):
            new = int(inputs.layout.new_R[index])
            if index >= len(forward_pass.chunks):
                assert new == 0
                continue
            chunk = forward_pass.chunks[index]
            assert inputs.slot_R[index] == chunk.slot not in served
            served[chunk.slot] = tokens[:new].tolist()
            assert [table[index].tolist() for table in inputs.layout.blocks] == [
                table[chunk.slot, :3].tolist() for table in TABLES
            ]
            assert int(inputs.layout.cached_R[index]) == chunk.start
            assert inputs.token_BT.flat[inputs.sampled_PR[0, index]] == chunk.tokens[-1]
            assert chunk.end <= forward_pass.shape.context
        if not forward_pass.sampled:
            continue
        batch = buckets.sampled(forward_pass.shape, forward_pass.sampled)
        sampling = SamplingInputs.of(forward_pass, batch, np.ones((1, 1), np.uint32), {})
        active = sampling.slot_B[sampling.active_B].tolist()
        assert active == [chunk.slot for chunk in forward_pass.chunks if chunk.is_sampled]
    assert served == {chunk.slot: list(chunk.tokens) for chunk in (*decoding, *prefilling) if chunk.tokens}


def test_drafts_are_verified_from_the_last_token_on() -> None:
    buckets = Buckets(MAX_BATCH, MAX_LEN, draft=7, is_ragged=True)
    [forward_pass] = plan_step(buckets, [Chunk(0, 40, [LAST_TOKEN, 5, 6], draft_count=2)], [])
    inputs = ModelInputs.of(forward_pass, TABLES, 3)
    sampling = SamplingInputs.of(forward_pass, buckets.sampled(forward_pass.shape, 1), np.ones((1, 1), np.uint32), {})
    assert inputs.token_BT.flat[inputs.sampled_PR[:3, 0]].tolist() == [LAST_TOKEN, 5, 6]
    assert (sampling.draft_BU[0, :2].tolist(), int(sampling.draft_count_B[0])) == ([5, 6], 2)


def test_streams_never_pay_for_more_than_twice_their_number() -> None:
    buckets = Buckets(64, MAX_LEN, is_ragged=True)
    for streams in range(1, 65):
        [decode] = plan_step(buckets, [Chunk(slot, 9, [LAST_TOKEN]) for slot in range(streams)], [])
        assert streams <= decode.shape.tokens <= 2 * streams
        assert streams <= buckets.sampled(decode.shape, decode.sampled) <= 2 * streams
