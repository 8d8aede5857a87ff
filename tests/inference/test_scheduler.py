"""The order of requests, admission by memory, and putting back: no model needed."""

from collections import Counter

from llm_jax.inference import Request, SamplingParams
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS, BlockPool
from llm_jax.inference.engine.scheduler import PRIORITY_TOKENS, Scheduler, SequenceState


def scheduler_of(slots: int, blocks: int = 100) -> Scheduler:
    pool = BlockPool([blocks], [None], slots=slots, max_len=blocks * BLOCK_TOKENS, keep=0)
    return Scheduler(pool, slots)


def submit(scheduler: Scheduler, number: int, prompt: int = 1, **fields: object) -> list[SequenceState]:
    request = Request(prompt_ids=(1,) * prompt, sampling=SamplingParams(), **fields)
    sequences = [SequenceState(request, print, print) for _ in range(number)]
    for sequence in sequences:
        scheduler.submit(sequence)
    return sequences


def test_slots_go_to_the_requests_that_waited_longest() -> None:
    scheduler = scheduler_of(2)
    first, second, third, fourth = submit(scheduler, 4)
    assert scheduler.admit() == [first, second]
    assert scheduler.admit() == []
    scheduler.end(first)
    assert scheduler.admit() == [third]
    assert (third.slot, scheduler.running, scheduler.waiting) == (0, [second, third], [fourth])


def test_prompts_are_prefilled_in_order_of_arrival_whatever_the_slot() -> None:
    scheduler = scheduler_of(2)
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
    scheduler = scheduler_of(1)
    first, second, third = submit(scheduler, 3)
    scheduler.admit()
    scheduler.cancel(second.request_id)
    scheduler.cancel(first.request_id)
    scheduler.cancel(first.request_id)  # twice does no harm
    assert (first.has_ended, second.has_ended) == (True, True)
    assert scheduler.admit() == [third]
    scheduler.end(third)
    assert scheduler.has_work  # its slot and blocks are given back by the next step
    scheduler.admit()
    assert not scheduler.has_work
    assert (scheduler.slots, scheduler.pool.used) == ([None], 0)


def test_what_does_not_fit_waits_and_lets_nobody_pass() -> None:
    scheduler = scheduler_of(4, blocks=10)
    large, larger, small = (submit(scheduler, 1, prompt)[0] for prompt in (5 * 64, 6 * 64, 1))
    assert scheduler.admit() == [large]
    assert scheduler.waiting == [larger, small]
    scheduler.end(large)
    assert scheduler.admit() == [larger, small]


def test_the_last_in_turn_is_put_back_to_its_place() -> None:
    scheduler = scheduler_of(2)
    first, second, third = submit(scheduler, 3)
    scheduler.admit()
    scheduler.put_back_last()
    assert (scheduler.running, scheduler.waiting) == ([first], [second, third])
    assert (second.slot, scheduler.preemptions) == (-1, 1)
    assert scheduler.admit() == [second]


def test_a_tenant_that_asks_much_does_not_delay_one_that_asks_little() -> None:
    scheduler = scheduler_of(1)
    greedy = submit(scheduler, 50, tenant="greedy")
    served = [run_one(scheduler) for _ in range(10)]
    assert served == greedy[:10]
    modest = submit(scheduler, 3, tenant="modest")
    served = [run_one(scheduler) for _ in range(8)]
    assert {s.request_id for s in modest} < {s.request_id for s in served}
    counts = Counter(s.request.tenant for s in served[:6])
    assert abs(counts["greedy"] - counts["modest"]) <= 1


def test_shares_are_counted_in_tokens() -> None:
    scheduler = scheduler_of(1)
    submit(scheduler, 40, prompt=351, tenant="long")  # 401 tokens with the 50 that may follow
    submit(scheduler, 40, prompt=51, tenant="short")  # 101
    served = Counter(run_one(scheduler).request.tenant for _ in range(25))
    assert 3.5 < served["short"] / served["long"] < 5


def test_priority_goes_first_and_the_last_come_in_the_end() -> None:
    scheduler = scheduler_of(1)
    [late] = submit(scheduler, 1, priority=1)
    [soon] = submit(scheduler, 1, priority=-1, tenant="other")
    [now] = submit(scheduler, 1, tenant="third")
    assert [run_one(scheduler) for _ in range(3)] == [soon, now, late]
    [late] = submit(scheduler, 1, priority=1)
    passed = 0
    while True:  # others keep coming
        submit(scheduler, 1, prompt=4000, tenant=f"tenant {passed}")
        if run_one(scheduler) is late:
            break
        passed += 1
    assert 1 < passed <= 1 + 2 * PRIORITY_TOKENS / 4050  # there are two tenants at a time


def test_a_tenant_with_less_than_its_share_gets_a_slot_of_the_one_that_has_most() -> None:
    scheduler = scheduler_of(6)
    greedy = submit(scheduler, 20, tenant="greedy")
    other = submit(scheduler, 1, tenant="other")
    assert scheduler.admit() == [greedy[0], *other, *greedy[1:5]]
    modest = submit(scheduler, 4, tenant="modest")
    for number in (0, 1):  # six slots for three tenants
        put_back = scheduler.over_share()
        assert put_back is greedy[4 - number]
        scheduler.put_back(put_back)
        assert scheduler.admit() == [modest[number]]
    assert scheduler.over_share() is None
    assert scheduler.waiting[0] is greedy[3]  # at its turn
    scheduler.end(modest[0])
    assert scheduler.admit() == [modest[2]]  # it has less than its share again
    for sequence in modest:
        scheduler.end(sequence)
    assert scheduler.admit() == greedy[3:5]  # what nobody else needs


def test_no_slot_is_taken_for_a_request_of_worse_priority() -> None:
    scheduler = scheduler_of(2)
    submit(scheduler, 3, tenant="greedy")
    scheduler.admit()
    submit(scheduler, 1, tenant="modest", priority=1)
    assert scheduler.over_share() is None
    submit(scheduler, 1, tenant="modest")
    assert scheduler.over_share() is not None


def test_prompts_of_several_tenants_take_turns() -> None:
    scheduler = scheduler_of(5)
    greedy = submit(scheduler, 3, tenant="greedy")
    modest = submit(scheduler, 2, tenant="modest")
    scheduler.admit()
    orders = [scheduler.prefilling() for _ in range(4)]
    assert orders[0] == orders[2] == [greedy[0], modest[0], greedy[1], modest[1], greedy[2]]
    assert orders[1] == orders[3] == [modest[0], greedy[0], modest[1], greedy[1], greedy[2]]


def test_tenants_with_fewer_running_requests_than_the_average_are_light() -> None:
    scheduler = scheduler_of(20)
    submit(scheduler, 5, tenant="greedy")
    scheduler.admit()
    assert (scheduler.light_tenants(), scheduler.is_shared) == (set(), False)
    submit(scheduler, 1, tenant="modest")
    submit(scheduler, 3, tenant="average")
    assert (scheduler.light_tenants(), scheduler.is_shared) == (set(), True)  # they wait
    scheduler.admit()
    assert scheduler.light_tenants() == {"modest"}


def run_one(scheduler: Scheduler) -> SequenceState:
    """Admits one request and ends it."""
    [sequence] = scheduler.admit()
    scheduler.end(sequence)
    scheduler.vacate_ended()
    return sequence
