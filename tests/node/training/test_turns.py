"""Whose work is next on a worker."""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import count

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from chain.training.fees import PROMISED_SHARE
from node.training.turns import PROMISES_LIMIT, Turn, Turns, WorkOverError, compute_rate


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
        await world.add("long", Turn("junk", 500, get_deadline=late), pieces=100)
        for _ in range(50):
            await world.add("many", Turn("junk", 500, get_deadline=late))
        await world.add("short", Turn("honest", 5, get_deadline=soon))
        await trio.sleep(2.5)
        nursery.cancel_scope.cancel()
    assert world.done == ["long", "short"]


async def test_work_of_one_promise_is_done_one_after_another(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("begun", Turn("other", 500, get_deadline=soon))
        for place in (1, 2, 0):
            turn = Turn("honest", 500, get_deadline=late, place=place)
            await world.add(f"check {place}", turn, pieces=3)
    checks = [f"check {place}" for place in range(3) for _ in range(3)]
    assert world.done == ["begun", *checks]


async def test_work_that_is_begun_goes_on_before_other_work_of_its_promise(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("other", 500, get_deadline=soon))
        await world.add("earlier", Turn("honest", 500, get_deadline=late, place=0))
        await world.add("begun", Turn("honest", 500, get_deadline=late, place=1, is_begun=True))
    assert world.done == ["first", "begun", "earlier"]


async def test_tasks_that_are_due_together_take_turns(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for name in ("a", "b"):
            for place in range(2):
                turn = Turn(name, 500, get_deadline=late, place=place)
                await world.add(f"{name}{place}", turn, pieces=2)
    assert world.done == ["a0", "b0", "a0", "b0", "a1", "b1", "a1", "b1"]


async def test_work_beyond_its_promise_leaves_the_turn_to_others(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("greedy", Turn("greedy", 2, get_deadline=soon), pieces=10)
        await world.add("honest", Turn("honest", 3, get_deadline=late), pieces=3)
    assert world.done == ["greedy"] * 2 + ["honest"] * 3 + ["greedy"] * 8


async def test_work_beyond_promises_shares_what_is_left(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("slow", Turn("slow", 0, get_deadline=late), seconds=3, pieces=3)
        await world.add("fast", Turn("fast", 0, get_deadline=late), pieces=6)
    assert world.done == ["slow", *["fast"] * 3, "slow", *["fast"] * 3, "slow"]


async def test_work_that_is_too_late_delays_no_other(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("first"))
        await world.add("too late", Turn("late", 100, get_deadline=too_late))
        await world.add("in time", Turn("honest", 100, get_deadline=late))
    assert world.done == ["first", "in time", "too late"]


async def test_waiting_work_follows_its_deadline_to_a_further_ballot(
    autojump_clock: MockClock,
) -> None:
    deadline = too_late()
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("begun", Turn("begun", 500, get_deadline=soon))
        await world.add("hostile", Turn("hostile", 0, get_deadline=late))
        await world.add("honest", Turn("honest", 500, get_deadline=lambda: deadline), pieces=2)
        deadline = late()
    assert world.done == ["begun", "honest", "honest", "hostile"]


async def test_work_that_nobody_wants_any_more_is_dropped(autojump_clock: MockClock) -> None:
    wanted = {"over", "open"}
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn())
        for name in ("over", "open"):
            is_wanted = partial(wanted.__contains__, name)
            await world.add(name, Turn(name, 100, get_deadline=late, is_wanted=is_wanted))
        wanted.remove("over")
    assert (world.done, world.dropped) == (["first", "open"], ["over"])


async def test_work_that_nobody_wants_is_dropped_while_others_have_turns(
    autojump_clock: MockClock,
) -> None:
    wanted = True
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("first", Turn("first", 500, get_deadline=soon), pieces=10)
        for _ in range(2):
            await world.add("over", Turn("over", 100, get_deadline=late, is_wanted=lambda: wanted))
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
            turn = Turn(
                name,
                500,
                get_deadline=lambda: count(late()),
                is_wanted=lambda: bool(count(1)),
                place=place,
            )
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
        await world.add("greedy", Turn("greedy", 2, get_deadline=soon), seconds=3)
        for number in range(PROMISES_LIMIT):
            await world.add("other", Turn(number, 2, get_deadline=soon), seconds=0)
        await trio.sleep(4)
        world.done.clear()
        await world.add("begun", Turn("begun"))
        await world.add("greedy", Turn("greedy", 2, get_deadline=soon))
        await world.add("honest", Turn("honest", 2, get_deadline=late))
    assert world.done == ["begun", "honest", "greedy"]


async def test_quick_short_tasks_take_no_promised_time_of_a_long_one(
    autojump_clock: MockClock,
) -> None:
    turns, checked = Turns(1), 0

    async def take_quick_rounds(task: int) -> None:
        for attempt in count():
            due_at = trio.current_time() + 18
            turn = Turn((task, attempt), 0.5, task, 2 * 0.5 / 24, partial(float, due_at))
            async with turns.take(turn):
                await trio.sleep(0.5)
            await trio.sleep(4)

    async def check(place: int) -> None:
        nonlocal checked
        turn = Turn("long", 100, "long", 2 * 100 / 400, lambda: 320.0, place=place)
        async with turns.take(turn):
            await trio.sleep(1)
        checked += trio.current_time() <= 320

    async with trio.open_nursery() as nursery:
        for task in range(12):
            nursery.start_soon(take_quick_rounds, task)
        await trio.sleep(20)
        for place in range(100):
            nursery.start_soon(check, place)
        await trio.sleep(301)
        nursery.cancel_scope.cancel()
    assert checked == 100


@dataclass(frozen=True)
class PromisedTask:
    """A task of which attempts come after these rests, with this work in pieces of a second."""

    pieces: int
    period: int
    rests: tuple[int, ...]


@st.composite
def promised_tasks(draw: st.DrawFn) -> PromisedTask:
    period = draw(st.sampled_from((8, 12, 40, 160)))
    rest = draw(st.sampled_from((0, 1, 4, 9, 40)))
    return PromisedTask(
        pieces=period // draw(st.sampled_from((4, 6, 8))),
        period=period,
        rests=(rest,) * draw(st.sampled_from((1, 10, 40))),
    )


@settings(deadline=None)
@example(tasks=[*[PromisedTask(1, 8, (0,) * 40)] * 2, PromisedTask(40, 160, (4,))])
@given(tasks=st.lists(promised_tasks(), min_size=1, max_size=8))
def test_promised_work_at_its_rate_is_late_by_one_piece_at_most(tasks: list[PromisedTask]) -> None:
    accepted: list[PromisedTask] = []
    promised = Fraction(0)
    for task in tasks:
        share = Fraction(task.pieces, task.period)
        if promised + share <= Fraction(1, 2):
            promised += share
            accepted.append(task)
    late_by: list[float] = []

    async def take_attempts(turns: Turns, number: int, task: PromisedTask) -> None:
        paid_until = 0.0
        for attempt, rest in enumerate(task.rests):
            await trio.sleep(rest)
            start = trio.current_time()
            is_in_time = start >= paid_until
            due_at = start + task.period * 3 / 4
            paid_until = max(start, paid_until) + task.period / 2
            rate = 2 * task.pieces / task.period
            turn = Turn((number, attempt), task.pieces, number, rate, partial(float, due_at))
            for _ in range(task.pieces):
                async with turns.take(turn):
                    await trio.sleep(1)
            if is_in_time:
                late_by.append(trio.current_time() - start - task.period / 2)

    async def main() -> None:
        turns = Turns(1)
        async with trio.open_nursery() as nursery:
            for number, task in enumerate(accepted):
                nursery.start_soon(take_attempts, turns, number, task)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert max(late_by, default=0.0) <= 1 + 1e-6


async def test_time_that_no_other_needed_is_not_owed_later(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for attempt in range(100):
            turn = Turn(("quick", attempt), 1, "quick", 0.1, get_deadline=lambda: 1_000.0)
            await world.add("quick", turn)
            await trio.sleep(2)
        await trio.sleep(20)
        world.done.clear()
        await world.add("begun", Turn("begun"))
        await world.add("quick", Turn("quick", 1, "quick", 0.1, get_deadline=lambda: 300.0))
        await world.add("other", Turn("other", 1, "other", 0.1, get_deadline=lambda: 400.0))
    assert world.done == ["begun", "quick", "other"]


async def test_what_a_rate_pays_for_first_is_done_first(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.add("begun", Turn("begun"))
        await world.add("low", Turn("low", 1, "low", 0.05, get_deadline=soon))
        await world.add("high", Turn("high", 1, "high", 0.1, get_deadline=late))
    assert world.done == ["begun", "high", "low"]


def test_rates_of_all_promises_are_the_whole_worker() -> None:
    assert compute_rate(1_000_000 // PROMISED_SHARE) == 1
