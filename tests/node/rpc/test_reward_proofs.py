"""Which trees of rewards are built, and which are kept, for reward proofs."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest

from chain.primitives import Address, BlockNumber, TaskId
from chain.training.history import TaskHistory
from node.rpc import reward_proofs
from node.rpc.reward_proofs import LARGE_LIMIT, RewardProofs
from tests.worlds.training import LEASE, history_after

LARGE = 10**6


class World:
    """Tasks that have paid their id of accounts, so those from LARGE on have large trees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: list[int] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.began = threading.Event()
        self.proofs = RewardProofs(self, chain_id=5)
        monkeypatch.setattr(reward_proofs, "build_reward_tree", self._build)

    def has_more_rewards(self, task_id: TaskId, count: int) -> bool:
        return task_id > count

    def rewards(self, task_id: TaskId) -> Mapping[Address, int]:
        return {Address(task_id.to_bytes(20, "big")): 1}

    def _build(self, _chain: int, _to: Address, task_id: TaskId, _: object) -> str:
        self.built.append(task_id)
        if task_id >= LARGE:
            self.began.set()
            assert self.may_end.wait(20)
        return f"tree of {task_id}"

    async def find(self, task_id: int, paid_block: int = 1) -> object:
        return (await self.proofs.find_tree(paid(task_id, paid_block))).tree


def paid(task_id: int, paid_block: int) -> TaskHistory:
    lease = replace(LEASE, progress_block=BlockNumber(paid_block))
    return replace(history_after(), task_id=TaskId(task_id), lease=lease)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_tree_is_built_again_after_a_payment_only(world: World) -> None:
    async def ask() -> None:
        for block in (1, 1, 2, 2, 1):
            assert await world.find(3, block) == "tree of 3"

    asyncio.run(ask())
    assert world.built == [3, 3]


def test_small_tree_does_not_wait_for_a_large_one(world: World) -> None:
    world.may_end.clear()

    async def ask() -> None:
        large = asyncio.create_task(world.find(LARGE))
        assert await asyncio.to_thread(world.began.wait, 20)
        assert await world.find(3) == "tree of 3"
        same = asyncio.create_task(world.find(LARGE))
        world.may_end.set()
        assert await large == await same

    asyncio.run(ask())
    assert world.built == [LARGE, 3], "requests for one tree wait for the same one"


def test_only_the_tree_that_was_not_used_for_longest_is_forgotten(world: World) -> None:
    tasks = list(range(LARGE, LARGE + LARGE_LIMIT + 1))

    async def ask() -> None:
        for task_id in (*tasks[:-1], tasks[0], tasks[-1], 3):
            await world.find(task_id)
        del world.built[:]
        for task_id in (tasks[0], *tasks[2:], 3, tasks[1]):
            await world.find(task_id)

    asyncio.run(ask())
    assert world.built == [tasks[1]]
