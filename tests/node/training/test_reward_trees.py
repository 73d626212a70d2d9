"""Which task's tree of rewards is built next."""

import threading

import trio

from chain.primitives import TaskId
from chain.training.attempt import AttemptId
from node.training.reward_trees import RewardTrees
from tests.worlds.waiting import until

HUGE, LARGE, OTHER, SMALL = (AttemptId(TaskId(number), 7, 0) for number in range(1, 5))


class Index:
    def has_more_rewards(self, task_id: TaskId, _count: int) -> bool:
        return task_id != SMALL.task_id


class World:
    """Trees of which each is built until the test says so."""

    def __init__(self) -> None:
        self.trees = RewardTrees(Index())
        self.may_end = threading.Event()
        self.began: list[AttemptId] = []

    async def build(self, attempt_id: AttemptId) -> None:
        def build() -> None:
            self.began.append(attempt_id)
            assert self.may_end.wait(20)

        await self.trees.build(attempt_id, lambda: True, build)

    def count_waiting(self) -> int:
        return sum(map(len, self.trees._large._queues.values()))


async def test_small_tree_does_not_wait_for_a_large_one() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.build, HUGE)
        await until(lambda: world.began == [HUGE])
        nursery.start_soon(world.build, SMALL)
        await until(lambda: world.began == [HUGE, SMALL])
        world.may_end.set()


async def test_large_trees_share_the_time_by_attempt() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.build, HUGE)
        await until(lambda: world.began == [HUGE])
        for count in (1, 2):
            nursery.start_soon(world.build, HUGE)
            await until(lambda count=count: world.count_waiting() == count)
        nursery.start_soon(world.build, LARGE)
        await until(lambda: world.count_waiting() == 3)
        world.may_end.set()
    assert world.began == [HUGE, LARGE, HUGE, HUGE]


async def test_trees_of_earlier_rounds_put_no_task_behind_younger_ones() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.build, HUGE)
        await until(lambda: world.began == [HUGE])
        await trio.sleep(0.01)
        world.may_end.set()
    world.may_end.clear()
    next_round = AttemptId(HUGE.task_id, HUGE.round_number + 1, 0)
    async with trio.open_nursery() as nursery:
        for count, attempt_id in enumerate((LARGE, next_round, OTHER)):
            nursery.start_soon(world.build, attempt_id)
            await until(lambda count=count: world.count_waiting() == count and len(world.began) > 1)
        world.may_end.set()
    assert world.began == [HUGE, LARGE, next_round, OTHER]
