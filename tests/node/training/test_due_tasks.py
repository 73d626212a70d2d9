"""Which tasks are looked at, and how often."""

import trio
from trio.testing import MockClock

from chain.primitives import BlockNumber, TaskId
from node.training.due_tasks import LISTING_SECONDS, REST_SECONDS, TICK_SECONDS, DueTasks

BUSY, QUIET, RESTING, CLOSED = map(TaskId, (1, 2, 3, 4))
HEAD = BlockNumber(100)


def begun() -> DueTasks:
    """Four tasks that have been looked at just now."""
    due = DueTasks()
    for task_id in (BUSY, QUIET):
        due.wait_for_phases(task_id)
    due.rest(RESTING)
    assert due.take_all_due()
    due.note_block([CLOSED])
    assert due.take([], HEAD) == [BUSY, QUIET, RESTING, CLOSED]
    due.close(CLOSED)
    return due


async def test_jobs_of_a_task_have_no_other_task_looked_at(autojump_clock: MockClock) -> None:
    due = begun()
    await trio.sleep(LISTING_SECONDS)
    assert due.take([BUSY, CLOSED], HEAD) == [BUSY]


async def test_a_thousand_ended_jobs_cost_a_few_looks_a_second(autojump_clock: MockClock) -> None:
    due = begun()
    looks = 0
    for _ in range(1_000):
        await trio.sleep(0.001)
        looks += due.take([BUSY], HEAD).count(BUSY)
    assert looks <= 1 / LISTING_SECONDS


async def test_an_event_is_looked_at_soon_even_if_none_follows(autojump_clock: MockClock) -> None:
    due = begun()
    assert due.take([BUSY], HEAD) == []
    assert due.get_wait_seconds() <= LISTING_SECONDS
    await trio.sleep(due.get_wait_seconds())
    assert due.take([], HEAD) == [BUSY]
    assert due.get_wait_seconds() > 0


async def test_a_block_has_tasks_in_progress_looked_at_at_once(autojump_clock: MockClock) -> None:
    due = begun()
    due.note_block([RESTING, CLOSED])
    assert due.take([], HEAD) == [BUSY, QUIET, RESTING]
    assert due.take([], HEAD) == []


async def test_time_alone_has_tasks_looked_at(autojump_clock: MockClock) -> None:
    due = begun()
    await trio.sleep(TICK_SECONDS)
    assert due.take([], HEAD) == [BUSY, QUIET]
    await trio.sleep(REST_SECONDS)
    assert due.take([], HEAD) == [BUSY, QUIET, RESTING]


async def test_closed_task_is_looked_at_at_the_head_that_it_waits_for(
    autojump_clock: MockClock,
) -> None:
    due = begun()
    fined = TaskId(5)
    due.wait_for_head(fined, BlockNumber(110))
    due.wait_for_head(fined, BlockNumber(103))
    await trio.sleep(10 * REST_SECONDS)
    due.note_block([])
    assert fined not in due.take([], BlockNumber(102))
    assert fined in due.take([], BlockNumber(104))
    assert fined not in due.take([], BlockNumber(110)), "the earlier wait was replaced"
    due.wait_for_head(fined, BlockNumber(120))
    await trio.sleep(LISTING_SECONDS)
    assert fined in due.take([fined], BlockNumber(111)), "a job of it ended"
    due.close(fined)
    assert fined not in due.take([], BlockNumber(120))
