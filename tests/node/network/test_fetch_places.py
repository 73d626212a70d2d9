"""Places for fetches, shared by task, by speed and by holder."""

from collections.abc import Sequence
from functools import partial

import trio
from trio.testing import MockClock

from chain.primitives import Hash32, TaskId
from node.network.fetch_places import CROWDED_SECONDS, TURN_SECONDS, FetchPlaces
from node.network.stream import PeerId
from tests.worlds.waiting import until


class World:
    """Fetches that last until they are cancelled, and the time at which each got its place."""

    def __init__(self, nursery: trio.Nursery, limit: int = 4) -> None:
        self.places = FetchPlaces(limit)
        self.granted: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self._nursery = nursery
        self._start = trio.current_time()

    async def begin(
        self, name: str, task: int = 1, rate: int = 0, holders: Sequence[str] = ()
    ) -> None:
        """Begin a fetch of that many bytes a second."""
        self._nursery.start_soon(self._fetch, name, task, rate, holders)
        await trio.sleep(0.01)

    async def _fetch(self, name: str, task: int, rate: int, holders: Sequence[str]) -> None:
        blob_id = Hash32(name.encode().ljust(32))
        async with self.places.take(blob_id, TaskId(task)) as place:
            place.list_holders = lambda: [PeerId(each) for each in holders]
            self.granted[name] = trio.current_time() - self._start
            while True:
                await trio.sleep(0.1)
                place.count(rate // 10)
        self.ended[name] = trio.current_time() - self._start


async def test_slowest_fetch_gives_its_place_up_after_a_turn(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for name, rate in (("a", 60_000), ("b", 40_000), ("c", 50_000), ("d", 500_000)):
            await world.begin(name, rate=rate)
        await trio.sleep(10)
        assert world.ended == {}, "no fetch waits"
        await world.begin("new")
        await trio.sleep(1)
        assert world.ended.keys() == {"b"}
        assert world.granted.keys() == {"a", "b", "c", "d", "new"}
        nursery.cancel_scope.cancel()


async def test_prompt_fetches_keep_their_places(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for name in "abcd":
            await world.begin(name, rate=100_000)
        await world.begin("new")
        await trio.sleep(60)
        assert world.ended == {}
        nursery.cancel_scope.cancel()


async def test_task_without_places_gets_one_of_a_task_with_many(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for name in "abcd":
            await world.begin(name, rate=100_000)
        for name in ("e", "f"):
            await world.begin(name)
        await world.begin("new", task=2, rate=100_000)
        await trio.sleep(2 * TURN_SECONDS)
        assert len(world.ended) == 1
        assert "new" in world.granted
        nursery.cancel_scope.cancel()


async def test_task_gets_a_place_although_more_tasks_than_places_fetch_fast(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        for task, name in enumerate("abcd", 1):
            await world.begin(name, task=task, rate=80_000 + task)
        await world.begin("new", task=5, rate=100_000)
        await trio.sleep(23)
        assert world.ended == {}
        await trio.sleep(2)
        assert world.ended.keys() == {"a"}
        assert world.granted.keys() == {"a", "b", "c", "d", "new"}
        await trio.sleep(60)
        assert world.ended.keys() == {"a"}, "no fetch waits"
        nursery.cancel_scope.cancel()


async def test_new_fetch_comes_before_those_that_were_slow(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery, limit=1)
        await world.begin("slow")
        await world.begin("other")
        await trio.sleep(TURN_SECONDS + 1)
        assert list(world.ended) == ["slow"]
        await world.begin("slow")
        await world.begin("new")
        await trio.sleep(TURN_SECONDS)
        assert list(world.granted) == ["slow", "other", "new"]
        nursery.cancel_scope.cancel()


async def test_slow_fetch_gets_longer_turns(autojump_clock: MockClock) -> None:
    ended = []
    async with trio.open_nursery() as nursery:
        world = World(nursery, limit=1)
        await world.begin("a")
        await world.begin("b")
        for _ in range(8):
            before = dict(world.ended)
            await until(partial(lambda before: world.ended != before, before))
            [name] = [each for each in world.ended if world.ended[each] != before.get(each)]
            ended.append(round(world.ended[name] - world.granted[name]))
            await world.begin(name)
        nursery.cancel_scope.cancel()
    assert ended == [3, 3, 6, 6, 12, 12, 24, 24]


async def test_peer_that_holds_all_slow_fetches_does_not_get_whole_turns(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery, limit=8)
        for name in "abcdefgh":
            await world.begin(name, holders=["drip"])
        for number in range(6):
            await world.begin(f"new {number}", holders=[f"holder {number}"])
        await trio.sleep(2 * CROWDED_SECONDS + 0.5)
        assert len(world.ended) == 6
        nursery.cancel_scope.cancel()
