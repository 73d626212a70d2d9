"""Which task's tree of rewards is built next."""

import threading

import trio

from chain.primitives import TaskId
from node.training.reward_trees import RewardTrees
from tests.worlds.waiting import until

HUGE, LARGE, SMALL = map(TaskId, (1, 2, 3))


class Index:
    def has_more_rewards(self, task_id: TaskId, _count: int) -> bool:
        return task_id != SMALL


class World:
    """Trees of which each is built until the test says so."""

    def __init__(self) -> None:
        self.trees = RewardTrees(Index())
        self.may_end = threading.Event()
        self.began: list[TaskId] = []

    async def build(self, task_id: TaskId) -> None:
        def build() -> None:
            self.began.append(task_id)
            assert self.may_end.wait(20)

        await self.trees.build(task_id, lambda: True, build)

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


async def test_large_trees_share_the_time_by_task() -> None:
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
