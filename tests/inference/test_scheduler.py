"""Admission, the order of prefill, cancellation and compaction: no model needed."""

from llm_jax.inference import Request, SamplingParams
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState


def submit(scheduler: Scheduler, number: int) -> list[SequenceState]:
    request = Request(prompt_ids=(1,), sampling=SamplingParams())
    sequences = [SequenceState(request, print, print) for _ in range(number)]
    for sequence in sequences:
        scheduler.submit(sequence)
    return sequences


def test_slots_go_to_the_requests_that_waited_longest() -> None:
    scheduler = Scheduler(2)
    first, second, third, fourth = submit(scheduler, 4)
    assert scheduler.admit() == [first, second]
    assert scheduler.admit() == []
    scheduler.end(first)
    assert scheduler.admit() == [third]
    assert (third.slot, scheduler.running, list(scheduler.waiting)) == (0, [third, second], [fourth])


def test_prompts_are_prefilled_in_order_of_arrival_whatever_the_slot() -> None:
    scheduler = Scheduler(2)
    first, second, third = submit(scheduler, 3)
    scheduler.admit()
    scheduler.end(first)
    scheduler.admit()
    assert (second.slot, third.slot) == (1, 0)
    assert scheduler.prefilling() == [second, third]
    second.is_prefilled = True
    assert scheduler.prefilling() == [third]
    assert scheduler.decoding() == [second]


def test_a_cancelled_request_leaves_its_slot_or_the_queue() -> None:
    scheduler = Scheduler(1)
    first, second, third = submit(scheduler, 3)
    scheduler.admit()
    scheduler.cancel(second.request_id)
    scheduler.cancel(first.request_id)
    scheduler.cancel(first.request_id)  # twice does no harm
    assert (first.has_ended, second.has_ended) == (True, True)
    assert scheduler.admit() == [third]
    scheduler.end(third)
    assert not scheduler.has_work
    assert scheduler.slots == [None]


def test_slots_are_compacted_only_where_that_makes_the_batch_smaller() -> None:
    scheduler = Scheduler(4)
    first, second, third, fourth = submit(scheduler, 4)
    scheduler.admit()
    scheduler.end(second)
    assert scheduler.compact(lambda slots: 2 if slots <= 2 else 4) is None  # three slots need four either way
    scheduler.end(third)
    assert scheduler.compact(lambda slots: 2 if slots <= 2 else 4) == (3, 1)
    assert scheduler.slots == [first, fourth, None, None]
    assert fourth.slot == 1
