"""The order of dry runs, and how long they may take."""

from collections.abc import Set as AbstractSet
from dataclasses import replace

import trio
from trio.testing import MockClock

from chain.primitives import TaskId
from node.training.dry_runs import BEGIN_SECONDS, DryRunTurns, compute_dry_run_seconds
from tests.worlds.training import SPEC


async def run_all(
    turns: DryRunTurns, *tasks: tuple[int, float, float], attempts: AbstractSet[int] = frozenset()
) -> list[int]:
    """The order in which tasks have their turns; each is a task, its seconds and its start.

    Args:
        turns: The turns.
        tasks: The tasks.
        attempts: The tasks with an attempt in progress; it may change.
    """
    order: list[int] = []

    async def run(number: int, seconds: float, start: float) -> None:
        await trio.sleep(start)
        async with turns.take(TaskId(number), seconds, lambda: number in attempts):
            order.append(number)
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, *task)
    return order


async def test_shortest_dry_run_and_earliest_task_take_turns(autojump_clock: MockClock) -> None:
    tasks = ((1, 90, 0), (2, 80, 0), (3, 10, 0), (4, 20, 0), (5, 30, 0), (6, 30, 0))
    assert await run_all(DryRunTurns(), *tasks) == [3, 1, 4, 2, 5, 6]


async def test_short_dry_run_waits_for_two_long_ones_at_most(autojump_clock: MockClock) -> None:
    flood = [(number, 100, 0) for number in range(1, 30)]
    for start in (50, 150, 250, 350):
        order = await run_all(DryRunTurns(), *flood, (30, 10, start))
        assert order.index(30) - start // 100 in (1, 2)


async def test_long_dry_run_has_its_turn_among_ever_new_short_ones(
    autojump_clock: MockClock,
) -> None:
    later = [(number, 10, 9 * number) for number in range(2, 40)]
    order = await run_all(DryRunTurns(), (1, 100, 0), (40, 5, 0), *later)
    assert order.index(1) == 1


async def test_tasks_with_an_attempt_come_before_shorter_ones(autojump_clock: MockClock) -> None:
    tasks = ((1, 90, 0), (2, 10, 0), (3, 50, 0), (4, 60, 0), (5, 20, 0))
    assert await run_all(DryRunTurns(), *tasks, attempts={3, 4}) == [3, 1, 4, 2, 5]


async def test_attempt_that_opens_while_its_task_waits_counts(autojump_clock: MockClock) -> None:
    attempts: set[int] = set()
    tasks = ((1, 90, 0), (2, 10, 0), (3, 20, 0), (4, 50, 0))
    async with trio.open_nursery() as nursery:

        async def open_attempt() -> None:
            await trio.sleep(5)
            attempts.add(4)

        nursery.start_soon(open_attempt)
        assert await run_all(DryRunTurns(), *tasks, attempts=attempts) == [2, 1, 4, 3]


async def test_task_that_stops_waiting_has_no_turn(autojump_clock: MockClock) -> None:
    turns = DryRunTurns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_all, turns, (1, 100, 0))
        await trio.sleep(1)
        with trio.move_on_after(5):
            await run_all(turns, (2, 1, 0))
        with trio.fail_after(200):
            assert await run_all(turns, (3, 1, 0)) == [3]


async def test_turn_is_free_again_after_a_failed_dry_run(autojump_clock: MockClock) -> None:
    turns = DryRunTurns()
    try:
        async with turns.take(TaskId(1), 5, lambda: False):
            raise ValueError
    except ValueError:
        pass
    with trio.fail_after(1):
        assert await run_all(turns, (2, 0, 0)) == [2]


async def test_dry_runs_that_are_repeated_delay_no_first_one_for_long(
    autojump_clock: MockClock,
) -> None:
    """Six tasks whose dry run always ends by a fault of the machine, and is made again at once."""
    turns = DryRunTurns()
    order: list[int] = []

    async def run(number: int, count: int) -> None:
        for _ in range(count):
            async with turns.take(TaskId(number), 10, lambda: False):
                order.append(number)
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        for number in range(1, 7):
            nursery.start_soon(run, number, 20)
        await trio.sleep(305)
        nursery.start_soon(run, 7, 1)
    assert order.index(7) - 30 in (1, 2)


async def test_task_whose_turns_are_forgotten_is_new_again(autojump_clock: MockClock) -> None:
    turns = DryRunTurns()
    await run_all(turns, (2, 1, 0))
    turns.forget(TaskId(2))
    assert await run_all(turns, (1, 9, 0), (2, 1, 0), (3, 5, 0)) == [1, 2, 3]


def test_dry_run_may_take_what_follows_from_the_declaration() -> None:
    declared = replace(SPEC.resources, unit_milliseconds=1_500, evaluation_milliseconds=500)
    seconds = compute_dry_run_seconds(replace(SPEC, resources=declared), 120)
    assert BEGIN_SECONDS + 20 <= seconds < BEGIN_SECONDS + 21
    assert compute_dry_run_seconds(replace(SPEC, resources=declared), 15) == 15
    longest = replace(declared, unit_milliseconds=60_000)
    assert compute_dry_run_seconds(replace(SPEC, resources=longest), 120) == 120
