"""Whose work is next on a worker."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.training.turns import PROMISES_LIMIT, Turn, Turns, WorkOverError


def late() -> float:
    return 1_000.0


def soon() -> float:
    return 20.0


def too_late() -> float:
    return -1.0


class World:
    """Pieces of work that all wait behind the first; `done` has their names in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turns = Turns(1)
        self.nursery = nursery
        self.done: list[str] = []
        self.dropped: list[str] = []

    async def add(self, name: str, turn: Turn, seconds: float = 1, pieces: int = 1) -> None:
        self.nursery.start_soon(self._work, name, turn, seconds, pieces)
        await wait_all_tasks_blocked()

    async def _work(self, name: str, turn: Turn, seconds: float, pieces: int) -> None:
        try:
            for _ in range(pieces):
                async with self.turns.take(turn):
                    await trio.sleep(seconds)
                    self.done.append(name)
        except WorkOverError:
            self.dropped.append(name)


async def test_work_that_is_due_first_waits_for_one_piece_only(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("long", Turn("junk", 500, late), pieces=100)
        for _ in range(50):
            await world.add("many", Turn("junk", 500, late))
        await world.add("short", Turn("honest", 5, soon))
        await trio.sleep(2.5)
        nursery.cancel_scope.cancel()
    assert world.done == ["long", "short"]


async def test_work_of_one_promise_is_done_one_after_another(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("begun", Turn("other", 500, soon))
        for place in (1, 2, 0):
            turn = Turn("honest", 500, late, place=place)
            await world.add(f"check {place}", turn, pieces=3)
    checks = [f"check {place}" for place in range(3) for _ in range(3)]
    assert world.done == ["begun", *checks]


async def test_work_that_is_begun_goes_on_before_other_work_of_its_promise(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("other", 500, soon))
        await world.add("earlier", Turn("honest", 500, late, place=0))
        await world.add("begun", Turn("honest", 500, late, place=1, is_begun=True))
    assert world.done == ["first", "begun", "earlier"]


async def test_tasks_that_are_due_together_take_turns(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for name in ("a", "b"):
            for place in range(2):
                turn = Turn(name, 500, late, place=place)
                await world.add(f"{name}{place}", turn, pieces=2)
    assert world.done == ["a0", "b0", "a0", "b0", "a1", "b1", "a1", "b1"]


async def test_work_beyond_its_promise_leaves_the_turn_to_others(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("greedy", Turn("greedy", 2, soon), pieces=10)
        await world.add("honest", Turn("honest", 3, late), pieces=3)
    assert world.done == ["greedy"] * 2 + ["honest"] * 3 + ["greedy"] * 8


async def test_work_beyond_promises_shares_what_is_left(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("slow", Turn("slow", 0, late), seconds=3, pieces=3)
        await world.add("fast", Turn("fast", 0, late), pieces=6)
    assert world.done == ["slow", *["fast"] * 3, "slow", *["fast"] * 3, "slow"]


async def test_work_that_is_too_late_delays_no_other(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("first"))
        await world.add("too late", Turn("late", 100, too_late))
        await world.add("in time", Turn("honest", 100, late))
    assert world.done == ["first", "in time", "too late"]


async def test_waiting_work_follows_its_deadline_to_a_further_ballot(
    autojump_clock: MockClock,
) -> None:
    deadline = too_late()
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("begun", Turn("begun", 500, soon))
        await world.add("hostile", Turn("hostile", 0, late))
        await world.add("honest", Turn("honest", 500, lambda: deadline), pieces=2)
        deadline = late()
    assert world.done == ["begun", "honest", "honest", "hostile"]


async def test_work_that_nobody_wants_any_more_is_dropped(autojump_clock: MockClock) -> None:
    wanted = {"over", "open"}
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn())
        for name in ("over", "open"):
            await world.add(name, Turn(name, 100, late, lambda name=name: name in wanted))
        wanted.remove("over")
    assert (world.done, world.dropped) == (["first", "open"], ["over"])


async def test_work_that_nobody_wants_is_dropped_while_others_have_turns(
    autojump_clock: MockClock,
) -> None:
    wanted = True
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("first", 500, soon), pieces=10)
        for _ in range(2):
            await world.add("over", Turn("over", 100, late, lambda: wanted))
        wanted = False
        await trio.sleep(3)
        assert world.dropped == ["over", "over"]
    assert world.done == ["first"] * 10


async def test_piece_asks_about_no_others_that_wait(autojump_clock: MockClock) -> None:
    asked = 0

    def count(answer: float) -> float:
        nonlocal asked
        asked += 1
        return answer

    async with trio.open_nursery() as nursery:
        turns = Turns(1)

        async def check(name: str, place: int) -> None:
            turn = Turn(name, 500, lambda: count(late()), lambda: bool(count(1)), place=place)
            async with turns.take(turn):
                await trio.sleep(0.001)

        for place in range(256):
            for name in ("a", "b"):
                nursery.start_soon(check, name, place)
    # Of each piece the ranks of both promises, and whether the first is wanted.
    assert asked <= 512 * 3 + 10


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5])
async def test_cancelled_work_gives_its_turn_back(
    autojump_clock: MockClock, seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn())
        with trio.move_on_after(seconds):
            async with world.turns.take(Turn()):
                await trio.sleep_forever()
        await world.add("last", Turn())
    assert world.done == ["first", "last"]


async def test_many_promises_of_others_give_back_no_used_time(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("greedy", Turn("greedy", 2, soon), seconds=3)
        for number in range(PROMISES_LIMIT):
            await world.add("other", Turn(number, 2, soon), seconds=0)
        await trio.sleep(4)
        world.done.clear()
        await world.add("begun", Turn("begun"))
        await world.add("greedy", Turn("greedy", 2, soon))
        await world.add("honest", Turn("honest", 2, late))
    assert world.done == ["begun", "honest", "greedy"]
