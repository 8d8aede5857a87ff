"""How many tokens a stream decodes in one call: those that take little time, while nobody waits for it."""

import pytest

from llm_jax.inference import Request, SamplingParams
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS, BlockPool
from llm_jax.inference.engine.planner import CALL, Planner
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.step_plan import DECODE_STEPS, LAST_TOKEN, Buckets, Chunk, plan_step

BUCKETS = Buckets(2, 700, steps=DECODE_STEPS, is_ragged=True)


class Streams:
    """A planner, with sequences that have a prompt of one token and have sampled one behind it."""

    def __init__(self, buckets: Buckets = BUCKETS) -> None:
        pool = BlockPool([100], [None], slots=buckets.max_batch, max_len=100 * BLOCK_TOKENS, keep=0)
        self.scheduler = Scheduler(pool, buckets.max_batch)
        self.planner = Planner(self.scheduler, buckets)
        self.buckets = buckets

    def add(self, *, new: int = 100, tenant: str = "") -> SequenceState:
        request = Request(prompt_ids=(1,), sampling=SamplingParams(max_new_tokens=new), tenant=tenant)
        sequence = SequenceState(request, print, print)
        self.scheduler.submit(sequence)
        self.scheduler.admit()
        sequence.is_prefilled, sequence.cached, sequence.sampled = True, 1, 1
        return sequence

    def took(self, seconds: float, *, steps: int = 0) -> None:
        [decoded] = plan_step(self.buckets, [Chunk(0, 1, [LAST_TOKEN], steps=steps)], [])
        self.planner.record(decoded, seconds)

    def steps(self, *, with_draft: bool = False, with_steps: bool = True) -> list[int]:
        streams = self.scheduler.decoding()
        decoding, _ = self.planner.plan(1, streams, with_draft=with_draft, with_steps=with_steps)
        assert all(chunk.end - chunk.start == max(1, chunk.steps) for chunk in decoding.values())
        return [chunk.steps for chunk in decoding.values()]


@pytest.mark.parametrize(
    ("seconds", "steps"), [(CALL / 9, DECODE_STEPS), (CALL / 3.5, 3), (CALL / 1.5, 1), (2 * CALL, 1)]
)
def test_a_call_takes_no_longer_than_it_may(seconds: float, steps: int) -> None:
    streams = Streams()
    streams.add()
    assert streams.steps() == [1]  # no time is known
    streams.took(seconds)
    assert streams.steps() == [steps]
    streams.took(steps * seconds, steps=steps)  # a call of several
    assert streams.steps() == [steps]


def test_no_more_tokens_are_decoded_than_the_request_may_have() -> None:
    streams = Streams()
    streams.add(new=3)
    streams.took(CALL / 9)
    assert streams.steps() == [2]  # behind the one that it has


def test_one_token_at_a_time_where_another_request_waits_or_may_come_at_any_moment() -> None:
    streams = Streams(Buckets(1, 700, steps=DECODE_STEPS, is_ragged=True))
    streams.add()
    streams.took(CALL / 9)
    assert streams.steps() == [DECODE_STEPS]
    request = Request(prompt_ids=(1,), sampling=SamplingParams())
    streams.scheduler.submit(SequenceState(request, print, print))  # the only slot is taken
    assert streams.steps() == [1]
    shared = Streams()
    shared.scheduler.end(shared.add(tenant="a"))
    shared.add(tenant="b")
    shared.took(CALL / 9)
    assert shared.steps() == [1]


def test_by_programs_of_their_own_beside_a_prompt_another_stream_a_draft_or_a_mask() -> None:
    streams = Streams()
    streams.add()
    streams.took(CALL / 9)
    assert streams.steps(with_steps=False) == streams.steps(with_draft=True) == [0]
    second = streams.add()
    assert streams.steps() == [0, 0]
    second.is_prefilled, second.cached = False, 0
    assert streams.steps() == [0]


def test_without_such_a_program_there_are_no_calls_of_several() -> None:
    streams = Streams(Buckets(2, 700, is_ragged=True))
    streams.add()
    streams.took(CALL / 9)
    assert streams.steps() == [0]
