"""Who gets a row, in which order: no model needed."""

from llm_jax.inference import Request, SamplingParams
from llm_jax.inference.engine.scheduler import Job, Scheduler


def jobs(scheduler: Scheduler, number: int) -> list[Job]:
    request = Request(prompt_ids=(1,), sampling=SamplingParams())
    made = [Job(request, print, print) for _ in range(number)]
    for job in made:
        scheduler.submit(job)
    return made


def test_rows_go_to_those_who_waited_longest() -> None:
    scheduler = Scheduler(2)
    first, second, third, fourth = jobs(scheduler, 4)
    assert scheduler.admit() == [first, second]
    assert scheduler.admit() == []
    scheduler.end(first)
    assert scheduler.admit() == [third]
    assert (third.row, scheduler.running, list(scheduler.waiting)) == (0, [third, second], [fourth])


def test_prompts_are_computed_in_order_of_arrival_whatever_the_row() -> None:
    scheduler = Scheduler(2)
    first, second, third = jobs(scheduler, 3)
    scheduler.admit()
    scheduler.end(first)
    scheduler.admit()
    assert (second.row, third.row) == (1, 0)
    assert scheduler.prompts() == [second, third]
    second.is_prefilled = True
    assert scheduler.prompts() == [third]
    assert scheduler.ready() == [second]


def test_whoever_is_cancelled_leaves_the_row_or_the_line() -> None:
    scheduler = Scheduler(1)
    first, second, third = jobs(scheduler, 3)
    scheduler.admit()
    scheduler.cancel(second.ticket)
    scheduler.cancel(first.ticket)
    scheduler.cancel(first.ticket)  # twice does no harm
    assert (first.is_over, second.is_over) == (True, True)
    assert scheduler.admit() == [third]
    scheduler.end(third)
    assert not scheduler.has_work
    assert scheduler.rows == [None]


def test_ranks_close_only_where_that_makes_the_batch_smaller() -> None:
    scheduler = Scheduler(4)
    first, second, third, fourth = jobs(scheduler, 4)
    scheduler.admit()
    scheduler.end(second)
    assert scheduler.close_ranks(lambda rows: 2 if rows <= 2 else 4) is None  # three rows need four either way
    scheduler.end(third)
    assert scheduler.close_ranks(lambda rows: 2 if rows <= 2 else 4) == (3, 1)
    assert scheduler.rows == [first, fourth, None, None]
    assert fourth.row == 1
